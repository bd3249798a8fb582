// A file or a block device as the target of a mirror.
#ifndef FERRITE_VMM_MIRROR_IMAGE_TARGET_H_
#define FERRITE_VMM_MIRROR_IMAGE_TARGET_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/pinned_file.h"
#include "vmm/mirror/mirror_target.h"

namespace ferrite {

// What else is known of it. Threads: as MirrorTarget; fd() is for any.
class ImageTarget : public MirrorTarget {
 public:
  // Open for reading and writing, and locked until Unlock().
  virtual int fd() const = 0;
  virtual std::shared_ptr<const PinnedFile> file() const = 0;
  // Somebody else in this process opens and locks file() next, in place of TakeImage().
  virtual void Unlock() = 0;
  // All of it was written out (WriteOut()), and somebody is about to write more: the mark goes. MarkComplete() has that
  // on the disk, too.
  virtual absl::Status Unmark() = 0;
};

// Where it is looked for, found before.
struct ImagePlace {
  // Open for reading: the last name of `where` is looked up there. Not valid: it is found by `where`.
  Fd directory;
  // What is to be written over. Null: it is found by `where`.
  std::shared_ptr<const PinnedFile> file;
};

// As MirrorTarget::Open(), whose `where` is a path. Symbolic links of others than root and this user are not followed.
// A block device has no mark beside it, and is opened with O_EXCL: one that is mounted, or that another one is made of,
// is in use.
absl::StatusOr<std::unique_ptr<ImageTarget>> OpenImageTarget(const MirrorTarget::Wanted& wanted, EventLoop& loop,
                                                             ImagePlace place = {});

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_IMAGE_TARGET_H_
