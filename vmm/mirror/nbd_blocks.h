// The blocks of an export of an NBD server.
#ifndef FERRITE_VMM_MIRROR_NBD_BLOCKS_H_
#define FERRITE_VMM_MIRROR_NBD_BLOCKS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "migration/api/block_io.h"
#include "vmm/mirror/nbd_export.h"

namespace ferrite {

// Its thread is that of the loop of `nbd`, which was made for `depth` commands. What is longer than the server takes at
// once goes out in pieces. Zeroes are zeroed by the server where it can (fast, if it says that it can do that and
// does), else written. A server without a flush has nothing to flush, and one without trim nothing to discard. All is
// data. Once the connection is lost, every operation ends with why.
std::unique_ptr<migration::BlockIo> MakeNbdBlocks(std::string name, std::unique_ptr<NbdExport> nbd, uint32_t depth);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_NBD_BLOCKS_H_
