// A file or a block device as the target of a mirror.
#ifndef FERRITE_VMM_MIRROR_IMAGE_TARGET_H_
#define FERRITE_VMM_MIRROR_IMAGE_TARGET_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "vmm/mirror/mirror_target.h"

namespace ferrite {

// As MirrorTarget::Open(), whose `where` is a path. Symbolic links of others than root and this user are not followed.
// A block device has no mark beside it, and is opened with O_EXCL: one that is mounted, or that another one is made of,
// is in use.
absl::StatusOr<std::unique_ptr<MirrorTarget>> OpenImageTarget(const MirrorTarget::Wanted& wanted, EventLoop& loop);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_IMAGE_TARGET_H_
