// Whatever a kernel file holds, what the parser accepts keeps the promises of kernel_image.h (R11).
#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "tests/fakes/test_images.h"
#include "vmm/boot/boot_layout.h"
#include "vmm/boot/kernel_image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace ferrite;
  const MemorySource file({data, size});
  const auto image = ParseKernelImage(file);
  if (!image.ok()) {
    FERRITE_CHECK(!image.status().message().empty());
    return 0;
  }
  FERRITE_CHECK(!image->segments.empty());
  bool entry_is_loaded = false;
  for (const KernelSegment& segment : image->segments) {
    FERRITE_CHECK(segment.file_offset <= size && segment.file_bytes <= size - segment.file_offset);
    FERRITE_CHECK(segment.memory_bytes > 0 && segment.file_bytes + segment.zero_bytes <= segment.memory_bytes);
    FERRITE_CHECK(segment.file_bytes + segment.zero_bytes >= segment.file_bytes);
    FERRITE_CHECK(segment.address >= kKernelMin);
    FERRITE_CHECK(segment.address.value() + segment.memory_bytes >= segment.address.value());
    entry_is_loaded |=
        image->entry >= segment.address.value() && image->entry - segment.address.value() < segment.memory_bytes;
  }
  FERRITE_CHECK(entry_is_loaded);
  // Goes to offset 0x1f1 of the zero page; the memory map starts at 0x2d0.
  FERRITE_CHECK(image->setup_header.size() <= 0x2d0 - 0x1f1);
  return 0;
}
