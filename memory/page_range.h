// Runs of pages of a guest's memory.
#ifndef FERRITE_MEMORY_PAGE_RANGE_H_
#define FERRITE_MEMORY_PAGE_RANGE_H_

#include <cstdint>

namespace ferrite {

// A run of 4 KiB pages of one region, [first, first + count).
struct PageRange {
  uint16_t region = 0;
  uint64_t first = 0;
  uint64_t count = 0;
  bool operator==(const PageRange&) const = default;
};

}  // namespace ferrite

#endif  // FERRITE_MEMORY_PAGE_RANGE_H_
