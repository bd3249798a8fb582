// What a kernel is told at its entry: Linux' zero page and the start information of PVH.
#ifndef FERRITE_VMM_BOOT_BOOT_PARAMS_H_
#define FERRITE_VMM_BOOT_BOOT_PARAMS_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "memory/guest_memory.h"
#include "vmm/boot/boot_layout.h"

namespace ferrite {

struct InitrdPlace {
  GuestAddress address;
  uint64_t bytes = 0;
};

struct BootContents {
  std::vector<MemoryMapEntry> memory_map;
  std::optional<InitrdPlace> initrd;
  // From the bzImage; empty for an ELF, which gets a header with what a loader fills in.
  std::vector<uint8_t> setup_header;
};

// Both tell of the command line at kCommandLineAddress and the RSDP at kAcpiTablesStart.

// struct boot_params (Documentation/arch/x86/zero-page.rst) at kZeroPageAddress.
absl::Status WriteZeroPage(GuestMemory& memory, const BootContents& contents);

// struct hvm_start_info, version 1 (Xen's public/arch-x86/hvm/start_info.h) at kStartInfoAddress; the initrd is its
// only module.
absl::Status WriteStartInfo(GuestMemory& memory, const BootContents& contents);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BOOT_PARAMS_H_
