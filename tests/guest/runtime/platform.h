// What the zero page and the ACPI tables say about the machine, and its power button.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_PLATFORM_H_
#define FERRITE_TESTS_GUEST_RUNTIME_PLATFORM_H_

#include <cstdint>

namespace guest {

inline constexpr uint64_t kPageBytes = 4096;

// Elements that live elsewhere.
template <typename T>
struct List {
  T* first;
  uint32_t count;
  T* begin() const { return first; }
  T* end() const { return first + count; }
};

struct Range {
  uint64_t begin;
  uint64_t end;
};

// Reads the tables; maps the memory above 4 GiB. First of all, on the first vCPU.
void DiscoverPlatform();

const char* CommandLine();

// The local APICs' ids, the first vCPU's first.
List<const uint8_t> ApicIds();

// The bases of the virtio-mmio devices' registers, as the DSDT lists them; without ACPI from the option mmio= on.
List<const uint32_t> VirtioMmioBases();

// The RAM that no one uses, ascending, whole pages: all above the image.
List<const Range> FreeMemory();
uint64_t FreePages();
// The page number `index` of it.
uint64_t FreePage(uint64_t index);
// Takes pages off the start of it; they are zero.
void* TakePages(uint64_t pages);

// ACPI S5 through the FADT's sleep control register. When the machine has none, or lives on: a triple fault.
[[noreturn]] void PowerOff();
// The FADT's reset register, or a triple fault.
[[noreturn]] void Reset();
[[noreturn]] void TripleFault();

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_PLATFORM_H_
