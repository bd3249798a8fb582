// Where the loader puts its own things in the first megabyte, and the memory map that tells the guest of it.
#ifndef FERRITE_VMM_BOOT_BOOT_LAYOUT_H_
#define FERRITE_VMM_BOOT_BOOT_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "memory/guest_address.h"
#include "memory/guest_memory.h"

namespace ferrite {

inline constexpr GuestAddress kGdtAddress{0x1000};
inline constexpr GuestAddress kZeroPageAddress{0x2000};
inline constexpr GuestAddress kStartInfoAddress{0x3000};
inline constexpr GuestAddress kBootStackTop{0x8000};  // grows down to kStartInfoAddress + 4 KiB
inline constexpr GuestAddress kPageTablesAddress{0x9000};
inline constexpr GuestAddress kCommandLineAddress{0x1'0000};
inline constexpr uint64_t kCommandLineRoomBytes = 0x1'0000;

// From here to 1 MiB a PC has its extended BIOS data, adapters and ROM; the guest is told to keep off.
inline constexpr GuestAddress kLowReservedStart{0x9'fc00};
// Where a PC's firmware is entered at reset (F000:FFF0).
inline constexpr GuestAddress kResetVectorAddress{0xf'fff0};

// Kernels load from here.
inline constexpr GuestAddress kKernelMin{0x10'0000};

// An entry of the map of memory; the types are those of e820 and of hvm_start_info.
struct MemoryMapEntry {
  enum Type : uint32_t { kRam = 1, kReserved = 2 };
  uint64_t address = 0;
  uint64_t bytes = 0;
  Type type = kRam;
};

// The guest's view of `memory`, by ascending address. ACPI tables lie in what is reserved.
std::vector<MemoryMapEntry> BuildMemoryMap(const GuestMemory& memory);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BOOT_LAYOUT_H_
