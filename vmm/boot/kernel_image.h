// What a kernel file asks for: parsing only, guest memory is not touched.
#ifndef FERRITE_VMM_BOOT_KERNEL_IMAGE_H_
#define FERRITE_VMM_BOOT_KERNEL_IMAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "vmm/boot/boot_entry.h"
#include "vmm/boot/byte_source.h"

namespace ferrite {

// Part of the file and where it goes. Parsed segments hold: the file's part lies in the file, 0 < memory_bytes,
// file_bytes + zero_bytes <= memory_bytes, address >= 1 MiB, address + memory_bytes does not wrap, and no two overlap:
// to load them takes no longer than to fill the machine's memory.
struct KernelSegment {
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;
  uint64_t zero_bytes = 0;  // after the file's part, to be cleared: an ELF's bss, what a bzImage leaves out at its end
  GuestAddress address;
  uint64_t memory_bytes = 0;
};

struct KernelImage {
  BootProtocol protocol = BootProtocol::kLinux64;
  uint64_t entry = 0;
  std::vector<KernelSegment> segments;  // at least one
  uint64_t max_command_line_bytes = 0;  // without the terminating zero
  GuestAddress initrd_limit;            // the initrd ends at or below
  // A bzImage's setup header, to be copied to offset 0x1f1 of the zero page; else empty.
  std::vector<uint8_t> setup_header;
  // What is wrong with a part that the kernel starts without ("has ..."); else empty.
  std::string passed_over;
};

// Recognises and checks a bzImage with a 64-bit entry (Documentation/arch/x86/boot.rst, protocol 2.12 and later) or an
// x86-64 ELF executable, which is entered at its PVH entry or else at its own. The error says what the file is instead,
// or what is wrong with it ("is a gzip file, ..."), for a caller that puts the file's name before. Reads a bounded
// amount.
absl::StatusOr<KernelImage> ParseKernelImage(const ByteSource& file);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_KERNEL_IMAGE_H_
