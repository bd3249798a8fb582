#include "migration/sending/untouched.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

absl::Status AddHoles(const MemoryRegion& region, PageBitmap& out) {
  const auto start = static_cast<off_t>(region.file_offset());
  const auto end = start + static_cast<off_t>(region.bytes());
  off_t at = start;
  while (at < end) {
    off_t data = lseek(region.fd(), at, SEEK_DATA);
    if (data < 0) {
      if (errno != ENXIO) {
        return ErrnoStatus(absl::StrCat("find data in ", region.name()));
      }
      data = end;  // a hole up to the end
    }
    data = std::min(data, end);
    // A page that is partly data counts as data.
    const uint64_t first_page = (static_cast<uint64_t>(at - start) + kPageBytes - 1) / kPageBytes;
    const uint64_t end_page = static_cast<uint64_t>(data - start) / kPageBytes;
    if (end_page > first_page) {
      out.SetRange(first_page, end_page - first_page);
    }
    if (data == end) {
      break;
    }
    at = lseek(region.fd(), data, SEEK_HOLE);
    if (at < 0) {
      return ErrnoStatus(absl::StrCat("find holes in ", region.name()));
    }
  }
  return absl::OkStatus();
}

absl::Status AddUnmapped(const MemoryRegion& region, const PageMapOpener& open, PageBitmap& out) {
  constexpr uint64_t kPresentOrSwapped = uint64_t{3} << 62;
  FERRITE_ASSIGN_OR_RETURN(const int page_map, open());
  const uint64_t first_page = reinterpret_cast<uint64_t>(region.guest_mapping().data()) / kPageBytes;
  std::array<uint64_t, 8192> entries;
  for (uint64_t page = 0; page < region.pages(); page += entries.size()) {
    const uint64_t count = std::min<uint64_t>(entries.size(), region.pages() - page);
    const ssize_t want = static_cast<ssize_t>(count * sizeof(uint64_t));
    if (pread(page_map, entries.data(), want, static_cast<off_t>((first_page + page) * sizeof(uint64_t))) != want) {
      return ErrnoStatus(absl::StrCat("read the page map of ", region.name()));
    }
    for (uint64_t i = 0; i < count; ++i) {
      if ((entries[i] & kPresentOrSwapped) == 0) {
        out.Set(page + i);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddUntouchedPages(const MemoryRegion& region, const PageMapOpener& page_map, PageBitmap& out) {
  return region.fd() >= 0 ? AddHoles(region, out) : AddUnmapped(region, page_map, out);
}

}  // namespace ferrite::migration
