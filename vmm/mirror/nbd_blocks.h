// The blocks of an export of an NBD server.
#ifndef FERRITE_VMM_MIRROR_NBD_BLOCKS_H_
#define FERRITE_VMM_MIRROR_NBD_BLOCKS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "migration/api/block_io.h"
#include "vmm/mirror/nbd_export.h"

namespace ferrite {

// Its thread is that of the loop of `nbd`, which was made for `depth` commands. What is longer than the server takes at
// once goes out in pieces. Zeroes are zeroed by the server where it can (fast, if it says that it can do that and
// does), else written. A server without a flush has nothing to flush, and one without trim nothing to discard. All is
// data. Once the connection is lost, every operation ends with why: UNAVAILABLE, which no other error is. Up to `depth`
// operations and a flush beside them take no memory.
std::unique_ptr<migration::BlockIo> MakeNbdBlocks(std::string name, std::unique_ptr<NbdExport> nbd, uint32_t depth);

// The result of `operation` on `nbd`, which is called `name`, for the error of a command (NbdCommand::error): as
// BlockResult(), but for UNAVAILABLE where the connection is lost. Throws nothing.
absl::Status NbdResult(const NbdExport& nbd, const migration::BlockOperation& operation, absl::string_view name,
                       int error);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_NBD_BLOCKS_H_
