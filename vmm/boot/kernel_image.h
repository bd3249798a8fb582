// What a kernel file asks for: parsing only, guest memory is not touched.
#ifndef FERRITE_VMM_BOOT_KERNEL_IMAGE_H_
#define FERRITE_VMM_BOOT_KERNEL_IMAGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/boot/boot_entry.h"
#include "vmm/boot/byte_source.h"
#include "vmm/memory/guest_address.h"

namespace ferrite {

// Part of the file and where it goes. Parsed segments hold: the file's part lies in the file, 0 < memory_bytes,
// file_bytes <= memory_bytes, address >= 1 MiB, and address + memory_bytes does not wrap.
struct KernelSegment {
  uint64_t file_offset = 0;
  uint64_t file_bytes = 0;
  GuestAddress address;
  uint64_t memory_bytes = 0;
};

struct KernelImage {
  BootProtocol protocol = BootProtocol::kLinux64;
  uint64_t entry = 0;
  std::vector<KernelSegment> segments;  // at least one
  // Whether memory past the file's part of a segment has to be zero (an ELF's bss).
  bool clear_rest = false;
  uint64_t max_command_line_bytes = 0;  // without the terminating zero
  GuestAddress initrd_limit;            // the initrd ends at or below
  // A bzImage's setup header, to be copied to offset 0x1f1 of the zero page; else empty.
  std::vector<uint8_t> setup_header;
};

// Recognises and checks a bzImage with a 64-bit entry (Documentation/arch/x86/boot.rst, protocol 2.12 and later) or an
// x86-64 ELF executable. The error says what the file is instead, or what is wrong with it ("is a gzip file, ..."), for
// a caller that puts the file's name before. Reads a bounded amount.
absl::StatusOr<KernelImage> ParseKernelImage(const ByteSource& file);

}  // namespace ferrite

#endif  // FERRITE_VMM_BOOT_KERNEL_IMAGE_H_
