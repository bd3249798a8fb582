// Where an open file has data.
#ifndef FERRITE_VMM_MIRROR_FILE_EXTENT_H_
#define FERRITE_VMM_MIRROR_FILE_EXTENT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "migration/api/block_io.h"

namespace ferrite {

// What is at `offset` of the file `fd`, of which `bytes` count and `offset` is below that (lseek(2), SEEK_DATA and
// SEEK_HOLE). A block of `block` bytes, of which `offset` is a multiple, that is a hole in part is data. A file that
// cannot tell, as a block device, has data to its end.
absl::StatusOr<migration::BlockIo::Extent> NextFileExtent(int fd, absl::string_view name, uint64_t offset,
                                                          uint64_t bytes, uint64_t block);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_FILE_EXTENT_H_
