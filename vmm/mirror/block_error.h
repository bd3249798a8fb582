// What went wrong with an operation on blocks, in words.
#ifndef FERRITE_VMM_MIRROR_BLOCK_ERROR_H_
#define FERRITE_VMM_MIRROR_BLOCK_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "migration/api/block_io.h"

namespace ferrite {

// "write 65536 bytes at 4096 of /srv/disk.raw".
std::string BlockWords(const migration::BlockOperation& operation, absl::string_view name);

// The result of `operation` on `name` for an errno value; OK for 0. RESOURCE_EXHAUSTED means here that there is no room
// (ENOSPC, EDQUOT), and nothing else. Never UNAVAILABLE (ErrnoStatus()), which says that a connection is lost: that one
// does not come back, and so nothing is worth another try. Throws nothing.
absl::Status BlockResult(const migration::BlockOperation& operation, absl::string_view name, int error);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_BLOCK_ERROR_H_
