// The kernel and the initrd of a machine that moves: a reset after the move boots them again, at the destination.
#ifndef FERRITE_VMM_MOVE_BOOT_FILES_H_
#define FERRITE_VMM_MOVE_BOOT_FILES_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/machine.capnp.h"
#include "vmm/base/pinned_file.h"
#include "vmm/boot/boot_file.h"

namespace ferrite {

// Size and digest of what has to be in the file, else of what is in it now, or why there are none.
void DescribeBootFile(const BootFile& file, state::BootFile::Builder out);

// Whether the source says what is in its file at all, or why not. Errors name `what` ("kernel").
absl::Status CheckDescribed(absl::string_view what, state::BootFile::Reader described);

// Whether `file` is the described one, byte for byte: then that is what has to be in it from now on. A peer that can
// describe it knows what is in it, and learns nothing by having the guest read it. A file of another size, of more than
// `room` bytes (the machine's memory), or that is no regular one, is not opened. Errors name `what` and the path.
absl::StatusOr<std::shared_ptr<const BootFile>> CheckBootFile(absl::string_view what, PinnedFile file,
                                                              state::BootFile::Reader described, uint64_t room);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_BOOT_FILES_H_
