// How the first vCPU starts: plain numbers that vmm/kvm turns into KVM's registers.
#ifndef FERRITE_VMM_BOOT_BOOT_ENTRY_H_
#define FERRITE_VMM_BOOT_BOOT_ENTRY_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace ferrite {

// Which of the kernel's entries is used.
enum class BootProtocol {
  kLinux64,  // a bzImage by its 64-bit entry (Documentation/arch/x86/boot.rst): long mode, rsi = zero page
  kElf64,    // an ELF by its own entry, with the conditions of kLinux64
  kPvh,      // an ELF by its PVH entry (Xen's pvh.html): 32-bit protected mode without paging, rbx = hvm_start_info
};
// "64-bit bzImage entry", "64-bit ELF entry", "PVH entry".
absl::string_view BootProtocolName(BootProtocol protocol);

// A segment register with its hidden part, as the descriptor would have loaded it. `limit` is in bytes (granularity
// applied).
struct SegmentRegister {
  uint16_t selector = 0;
  uint64_t base = 0;
  uint32_t limit = 0;
  uint8_t type = 0;  // 4 bits
  uint8_t dpl = 0;
  bool present = false;
  bool code_or_data = false;  // the S bit: clear for a TSS
  bool default_32bit = false;
  bool long_mode = false;
  bool page_granular = false;
  bool available = false;
};

struct DescriptorTableRegister {
  uint64_t base = 0;
  uint16_t limit = 0;
};

// Every register that is not here is as after INIT. Interrupts are off. The other vCPUs wait for SIPI.
struct BootEntry {
  BootProtocol protocol = BootProtocol::kLinux64;

  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rbx = 0;
  uint64_t rsi = 0;
  uint64_t rflags = 2;

  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;

  SegmentRegister cs;
  SegmentRegister data;  // ds, es, fs, gs and ss
  SegmentRegister tr;
  SegmentRegister ldt;
  DescriptorTableRegister gdt;
  DescriptorTableRegister idt;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_BOOT_ENTRY_H_
