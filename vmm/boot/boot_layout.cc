#include "vmm/boot/boot_layout.h"

#include <algorithm>

namespace ferrite {
namespace {

void AddRange(std::vector<MemoryMapEntry>& map, GuestAddress start, GuestAddress end, MemoryMapEntry::Type type) {
  if (start < end) {
    map.push_back({.address = start.value(), .bytes = end - start, .type = type});
  }
}

}  // namespace

std::vector<MemoryMapEntry> BuildMemoryMap(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map;
  for (const auto& region : memory.regions()) {
    AddRange(map, region->base(), std::min(region->end(), kLowReservedStart), MemoryMapEntry::kRam);
    if (region->base() < kKernelMin) {
      AddRange(map, kLowReservedStart, kKernelMin, MemoryMapEntry::kReserved);
    }
    AddRange(map, std::max(region->base(), kKernelMin), region->end(), MemoryMapEntry::kRam);
  }
  std::sort(map.begin(), map.end(), [](const auto& a, const auto& b) { return a.address < b.address; });
  return map;
}

}  // namespace ferrite
