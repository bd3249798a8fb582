// The processor state and the tables in memory that the boot protocols ask for.
#ifndef FERRITE_VMM_BOOT_CPU_SETUP_H_
#define FERRITE_VMM_BOOT_CPU_SETUP_H_

#include "absl/status/status.h"
#include "memory/guest_memory.h"
#include "vmm/boot/boot_entry.h"

namespace ferrite {

// Long mode on flat 64-bit segments, interrupts off, stack at kBootStackTop (boot.rst, "64-bit Boot Protocol"). Writes
// the GDT, and page tables that map the first 4 GiB onto themselves with 2 MiB pages, for user mode too. Sets
// everything in `entry` but rip, rsi and the protocol.
absl::Status SetUpLongMode(GuestMemory& memory, BootEntry& entry);

// 32-bit protected mode on flat segments without paging, interrupts off (Xen's pvh.html). Writes the GDT. Sets
// everything in `entry` but rip, rbx and the protocol.
absl::Status SetUpProtectedMode(GuestMemory& memory, BootEntry& entry);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_CPU_SETUP_H_
