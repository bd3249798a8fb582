// The kernel and the initrd of a machine that moves: a reset after the move boots them again, at the destination.
#ifndef FERRITE_VMM_MOVE_BOOT_FILES_H_
#define FERRITE_VMM_MOVE_BOOT_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/machine.capnp.h"

namespace ferrite {

// Size and digest of the regular file at `path`, or why there are none.
void DescribeBootFile(const std::string& path, state::BootFile::Builder out);

// Whether the file at `path` here is the described one, byte for byte. A peer that can describe it knows what is in it,
// and learns nothing by having the guest read it; of any other file it gets nothing. A file of another size, of more
// than 4 GiB, or that is no regular one, is not opened. Errors name `what` ("kernel") and `path`.
absl::Status CheckBootFile(absl::string_view what, const std::string& path, state::BootFile::Reader described);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_BOOT_FILES_H_
