#include "vmm/mirror/file_extent.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {

using Extent = migration::BlockIo::Extent;

absl::StatusOr<Extent> NextFileExtent(int fd, absl::string_view name, uint64_t offset, uint64_t bytes, uint64_t block) {
  const Extent rest = {.bytes = bytes - offset, .data = true};
  const off_t data = lseek(fd, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno == ENXIO) {
    return Extent{.bytes = rest.bytes, .data = false};  // there is none to the end
  }
  if (data < 0) {
    // EINVAL: the file system cannot tell.
    return errno == EINVAL ? absl::StatusOr<Extent>(rest) : ErrnoStatus(absl::StrCat("look for data in ", name));
  }
  const uint64_t first = std::min(static_cast<uint64_t>(data) / block * block, bytes);
  if (first > offset) {
    return Extent{.bytes = first - offset, .data = false};
  }
  const off_t hole = lseek(fd, data, SEEK_HOLE);
  if (hole < 0) {
    // ENXIO: it was cut off meanwhile. Who reads it will hear of it.
    return errno == ENXIO ? absl::StatusOr<Extent>(rest) : ErrnoStatus(absl::StrCat("look for holes in ", name));
  }
  const uint64_t end = (static_cast<uint64_t>(hole) + block - 1) / block * block;
  return Extent{.bytes = std::min(end, bytes) - offset, .data = true};
}

}  // namespace ferrite
