// What a disk is mirrored to: a file, a block device, or an export of an NBD server.
#ifndef FERRITE_VMM_MIRROR_MIRROR_TARGET_H_
#define FERRITE_VMM_MIRROR_MIRROR_TARGET_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/event_loop.h"
#include "devices/block/disk_image.h"
#include "migration/api/block_io.h"

namespace ferrite {

// Threads: one at a time; Open() and the destructor off the thread of `loop`, on which its blocks() are used.
class MirrorTarget {
 public:
  struct Wanted {
    std::string where;  // a path, "nbd:unix:PATH[:EXPORT]", "nbd://HOST[:PORT]/EXPORT" and libnbd's other URIs
    // It is there already: a file that is empty or of the disk's size, or a block device that has it at least. A larger
    // file is another thing than this disk: nobody means its first part to be written over.
    bool existing = false;
    uint64_t bytes = 0;   // the disk's
    bool exact = false;   // a block device, too, has the disk's size, and no larger one
    uint32_t depth = 16;  // operations at a time
    // The disk itself: an open descriptor of it, so that it is not copied onto itself.
    int source_fd = -1;
  };

  // A file that is made here is new (O_EXCL), sparse, of the disk's size, locked as a writer, and beside it stands
  // PATH.incomplete until MarkComplete(); beside one that was there, too: beside the file itself, where a link leads to
  // it. Refused in one line, with nothing left behind: the source itself, what is in use, too small, a file that is
  // larger, what is read-only, of a size that is no multiple of its block size, no file and no block device, there
  // already (without `existing`), not there (with it), a server that does not answer or has no such export.
  static absl::StatusOr<std::unique_ptr<MirrorTarget>> Open(const Wanted& wanted, EventLoop& loop);
  virtual ~MirrorTarget() = default;

  // As it was asked for.
  virtual const std::string& where() const = 0;
  // What it is, for people: "file, made here, 4.0 GiB", "block device", "NBD export \"disk\" of ..., fast zero, trim".
  virtual std::string Describe() const = 0;
  virtual migration::BlockIo& blocks() = 0;
  // It reads as zero where nothing was written.
  virtual bool is_zero() const = 0;

  // What was written to it so far is on its disk; more may be written meanwhile. Takes long: it is there so that the
  // last flush, for which somebody waits, has little to do. Off the loop's thread. Once it, a flush of blocks() or
  // MarkComplete() could not write something out, all of them fail with that error: what a later one says is not so.
  virtual absl::Status WriteOut() = 0;
  // All of it is on the disk and it is whole: PATH.incomplete goes (and that is on the disk, too).
  virtual absl::Status MarkComplete() = 0;
  // Operations that are in flight end soon, whatever the other side does, if with errors: the connection to a server is
  // cut. A file's end by themselves. Any thread.
  virtual void CutOff() {}

  // The image for the machine to go on with: the same open, and so the same lock. Once, when nothing is in flight.
  // FAILED_PRECONDITION as CheckCanBeDisk().
  virtual absl::StatusOr<std::unique_ptr<DiskImage>> TakeImage() = 0;
  // FAILED_PRECONDITION, with the reason, where TakeImage() cannot give the machine a disk of the same size: an NBD
  // export, or an image that is larger.
  virtual absl::Status CheckCanBeDisk() const = 0;
  // It was made by Open().
  virtual bool made_here() const = 0;
  // What was made here is removed (a file of that name that is another one by now is left), with its mark; what was
  // there before keeps its mark beside it, and what was written. Nothing is in flight.
  virtual absl::Status Remove() = 0;
  // The same when nothing was written: what was there before is as it was, without a mark that was put beside it.
  virtual absl::Status RemoveUntouched() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRROR_TARGET_H_
