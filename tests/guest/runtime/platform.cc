#include "tests/guest/runtime/platform.h"

#include "tests/guest/runtime/console.h"
#include "tests/guest/runtime/cpu.h"
#include "tests/guest/runtime/options.h"

extern "C" {
extern const char guest_image_end[];
// start.S: rsi and cr3 at the entry.
uint64_t guest_boot_params;
uint64_t guest_page_tables;
}

namespace guest {
namespace {

// Offsets in struct boot_params (Linux, Documentation/arch/x86/zero-page.rst and boot.rst).
constexpr uint64_t kRsdpAddress = 0x070;
constexpr uint64_t kExtCmdLinePtr = 0x0c8;
constexpr uint64_t kE820Entries = 0x1e8;
constexpr uint64_t kCmdLinePtr = 0x228;
constexpr uint64_t kE820Table = 0x2d0;
constexpr uint64_t kE820EntryBytes = 20;
constexpr uint32_t kE820Ram = 1;

// Offsets in the ACPI tables (ACPI 6.4, 5.2).
constexpr uint64_t kRsdpXsdtAddress = 24;
constexpr uint64_t kTableLength = 4;
constexpr uint64_t kTableHeaderBytes = 36;
constexpr uint64_t kFadtDsdt = 140;
constexpr uint64_t kFadtResetRegister = 116;
constexpr uint64_t kFadtResetValue = 128;
constexpr uint64_t kFadtSleepControl = 244;
constexpr uint64_t kGasAddress = 4;
constexpr uint8_t kGasSystemIo = 1;
constexpr uint64_t kMadtEntries = 44;
constexpr uint8_t kMadtLocalApic = 0;

constexpr uint32_t kMmioHole = 0xc000'0000;
constexpr uint32_t kVirtioMagic = 0x74726976;

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kLoaderMaps = 4 * kGiB;
constexpr uint64_t kPageTableBits = 0x7;  // present, writable, user
constexpr uint64_t kLargePage = 0x80;

constexpr uint32_t kMaxRanges = 8;
Range free_memory[kMaxRanges];
uint32_t free_ranges;
uint8_t apic_ids[kMaxCpus];
uint32_t apic_count;
constexpr uint32_t kMaxVirtio = 32;
uint32_t virtio_bases[kMaxVirtio];
uint32_t virtio_count;
uint16_t sleep_port;
uint8_t sleep_type = 5;
uint16_t reset_port;
uint8_t reset_value;

template <typename T>
T Load(uint64_t address) {
  T value;
  __builtin_memcpy(&value, reinterpret_cast<const void*>(address), sizeof(value));
  return value;
}

bool SignatureIs(uint64_t address, const char (&name)[5]) {
  return __builtin_memcmp(reinterpret_cast<const void*>(address), name, 4) == 0;
}

uint16_t IoPortOf(uint64_t generic_address) {
  return Load<uint8_t>(generic_address) == kGasSystemIo ? Load<uint16_t>(generic_address + kGasAddress) : 0;
}

// \_S5 in the DSDT: Name(_S5, Package{type, ...}), found by its name's bytes.
void FindSleepType(uint64_t dsdt) {
  const uint64_t end = dsdt + Load<uint32_t>(dsdt + kTableLength);
  for (uint64_t at = dsdt + kTableHeaderBytes; at + 9 < end; ++at) {
    if (SignatureIs(at, "_S5_") && Load<uint8_t>(at + 4) == 0x12) {  // PackageOp, its length in one byte, elements
      const uint8_t first = Load<uint8_t>(at + 7);
      sleep_type = first == 0x0a ? Load<uint8_t>(at + 8) : first;  // BytePrefix; ZeroOp and OneOp are their values
      return;
    }
  }
}

// Every Memory32Fixed descriptor of the DSDT (ACPI 6.4.3.4) behind which a virtio device answers.
void FindVirtioMmio(uint64_t dsdt) {
  const uint64_t end = dsdt + Load<uint32_t>(dsdt + kTableLength);
  for (uint64_t at = dsdt + kTableHeaderBytes; at + 12 <= end; ++at) {
    if (Load<uint8_t>(at) != 0x86 || Load<uint16_t>(at + 1) != 9) {
      continue;
    }
    const uint32_t base = Load<uint32_t>(at + 4);
    if (base >= kMmioHole && virtio_count < kMaxVirtio && ReadMmio<uint32_t>(base) == kVirtioMagic) {
      virtio_bases[virtio_count++] = base;
    }
  }
}

// Where no table says where they are, the option mmio= does: the first of so many register blocks (QEMU's microvm
// machine, include/hw/i386/microvm.h).
void FindVirtioMmioByOption() {
  constexpr uint64_t kBlocks = 24;
  constexpr uint64_t kBlockBytes = 512;
  const uint64_t base = NumberOption("mmio", 0);
  for (uint64_t i = 0; base != 0 && i < kBlocks; ++i) {
    if (ReadMmio<uint32_t>(base + i * kBlockBytes) == kVirtioMagic && virtio_count < kMaxVirtio) {
      virtio_bases[virtio_count++] = static_cast<uint32_t>(base + i * kBlockBytes);
    }
  }
}

void ReadTable(uint64_t table) {
  if (SignatureIs(table, "FACP")) {
    sleep_port = IoPortOf(table + kFadtSleepControl);
    reset_port = IoPortOf(table + kFadtResetRegister);
    reset_value = Load<uint8_t>(table + kFadtResetValue);
    if (const uint64_t dsdt = Load<uint64_t>(table + kFadtDsdt); dsdt != 0) {
      FindSleepType(dsdt);
      FindVirtioMmio(dsdt);
    }
  } else if (SignatureIs(table, "APIC")) {
    const uint64_t end = table + Load<uint32_t>(table + kTableLength);
    for (uint64_t at = table + kMadtEntries; at + 2 <= end; at += Load<uint8_t>(at + 1)) {
      const bool usable = Load<uint8_t>(at) == kMadtLocalApic && (Load<uint32_t>(at + 4) & 1) != 0;
      if (usable && apic_count < kMaxCpus) {
        apic_ids[apic_count++] = Load<uint8_t>(at + 3);
      }
    }
  }
}

void ReadAcpi(uint64_t rsdp) {
  if (rsdp == 0) {
    FindVirtioMmioByOption();
    return;
  }
  const uint64_t xsdt = Load<uint64_t>(rsdp + kRsdpXsdtAddress);
  const uint64_t end = xsdt + Load<uint32_t>(xsdt + kTableLength);
  for (uint64_t at = xsdt + kTableHeaderBytes; at < end; at += 8) {
    ReadTable(Load<uint64_t>(at));
  }
}

void ReadMemoryMap() {
  const uint64_t image_end = reinterpret_cast<uint64_t>(guest_image_end);
  if (guest_page_tables >= image_end) {
    Fail("page-tables-above-image", guest_page_tables);
  }
  const uint8_t entries = Load<uint8_t>(guest_boot_params + kE820Entries);
  for (uint8_t i = 0; i < entries; ++i) {
    const uint64_t entry = guest_boot_params + kE820Table + i * kE820EntryBytes;
    const uint64_t begin = Load<uint64_t>(entry);
    const uint64_t end = begin + Load<uint64_t>(entry + 8);
    if (Load<uint32_t>(entry + 16) == kE820Ram && end > image_end && free_ranges < kMaxRanges) {
      free_memory[free_ranges++] = {(begin > image_end ? begin : image_end) & ~(kPageBytes - 1),
                                    end & ~(kPageBytes - 1)};
    }
  }
  if (free_ranges == 0) {
    Fail("no-memory");
  }
}

// The loader's page tables cover 4 GiB. Entries that come in addition need no flush, so ring 3 can make them.
void MapHighMemory() {
  const uint64_t end = free_memory[free_ranges - 1].end;
  if (end > 512 * kGiB) {
    Fail("memory-above-512-gib", end);
  }
  const auto* pml4 = reinterpret_cast<volatile uint64_t*>(guest_page_tables & ~(kPageBytes - 1));
  auto* pdpt = reinterpret_cast<volatile uint64_t*>(pml4[0] & 0x000f'ffff'ffff'f000);
  for (uint64_t base = kLoaderMaps; base < end; base += kGiB) {
    auto* directory = static_cast<uint64_t*>(TakePages(1));
    for (uint64_t i = 0; i < 512; ++i) {
      directory[i] = (base + (i << 21)) | kLargePage | kPageTableBits;
    }
    pdpt[base / kGiB] = reinterpret_cast<uint64_t>(directory) | kPageTableBits;
  }
}

}  // namespace

void DiscoverPlatform() {
  ReadAcpi(Load<uint64_t>(guest_boot_params + kRsdpAddress));
  ReadMemoryMap();
  MapHighMemory();
}

const char* CommandLine() {
  const uint64_t address = Load<uint32_t>(guest_boot_params + kCmdLinePtr) |
                           uint64_t{Load<uint32_t>(guest_boot_params + kExtCmdLinePtr)} << 32;
  return address == 0 ? "" : reinterpret_cast<const char*>(address);
}

List<const uint8_t> ApicIds() { return {apic_ids, apic_count}; }

List<const uint32_t> VirtioMmioBases() { return {virtio_bases, virtio_count}; }

List<const Range> FreeMemory() { return {free_memory, free_ranges}; }

uint64_t FreePages() {
  uint64_t pages = 0;
  for (const Range& range : FreeMemory()) {
    pages += (range.end - range.begin) / kPageBytes;
  }
  return pages;
}

uint64_t FreePage(uint64_t index) {
  for (const Range& range : FreeMemory()) {
    const uint64_t pages = (range.end - range.begin) / kPageBytes;
    if (index < pages) {
      return range.begin + index * kPageBytes;
    }
    index -= pages;
  }
  Fail("page-outside-of-memory", index);
}

void* TakePages(uint64_t pages) {
  Range& first = free_memory[0];
  const uint64_t bytes = pages * kPageBytes;
  if (bytes > first.end - first.begin) {
    Fail("out-of-memory", bytes);
  }
  auto* result = reinterpret_cast<void*>(first.begin);
  first.begin += bytes;
  __builtin_memset(result, 0, bytes);
  return result;
}

void PowerOff() {
  if (sleep_port != 0) {
    Out8(sleep_port, static_cast<uint8_t>(sleep_type << 2 | 1 << 5));
  }
  TripleFault();
}

void Reset() {
  if (reset_port != 0) {
    Out8(reset_port, reset_value);
  }
  TripleFault();
}

void TripleFault() {
  for (;;) {
    asm volatile("ud2");
  }
}

}  // namespace guest
