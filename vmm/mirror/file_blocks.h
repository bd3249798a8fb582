// The blocks of an open image file or block device, read and written without waiting.
#ifndef FERRITE_VMM_MIRROR_FILE_BLOCKS_H_
#define FERRITE_VMM_MIRROR_FILE_BLOCKS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "migration/api/block_io.h"
#include "vmm/mirror/flush_record.h"

namespace ferrite {

// `fd` is open for reading (and writing, when it is written to), `bytes` its size. Its thread is that of `loop`; at
// most `depth` operations (1 to 4096) are with the kernel at a time. Extents are of SEEK_DATA and SEEK_HOLE; a block
// device says that all is data. Its flushes are noted in `flushes`, which whoever else flushes the same open file
// shares with it; after one that failed all fail. Up to `depth` operations and a flush beside them take no memory.
// `direct`, where it is valid, is the same file, open for writing with O_DIRECT: writes of 64 KiB and more go there,
// past the host's page cache, as long as the file system takes them.
absl::StatusOr<std::unique_ptr<migration::BlockIo>> MakeFileBlocks(
    std::string name, Fd fd, uint64_t bytes, EventLoop& loop, uint32_t depth,
    std::shared_ptr<FlushRecord> flushes = std::make_shared<FlushRecord>(), Fd direct = Fd());

// `fd` once more, for that; invalid where it cannot be had.
Fd OpenDirect(const Fd& fd);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_FILE_BLOCKS_H_
