#include "vmm/boot/cpu_setup.h"

#include <array>
#include <cstdint>

#include "base/status.h"
#include "vmm/boot/boot_layout.h"

namespace ferrite {
namespace {

// Intel SDM volume 3, 2.5.
constexpr uint64_t kCr0ProtectionEnable = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;
constexpr uint64_t kCr0NumericError = 1 << 5;
constexpr uint64_t kCr0Paging = uint64_t{1} << 31;
constexpr uint64_t kCr4PhysicalAddressExtension = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;

// __BOOT_CS and __BOOT_DS of boot.rst; the task state segment follows.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;
constexpr size_t kGdtEntries = 6;

constexpr uint8_t kTypeCode = 0xb;  // execute, read, accessed
constexpr uint8_t kTypeData = 0x3;  // read, write, accessed
constexpr uint8_t kTypeBusyTask = 0xb;
constexpr uint32_t kTaskLimit = 0x67;

constexpr uint64_t kPagePresentWritableUser = 0x7;
constexpr uint64_t kPageLarge = 1 << 7;
constexpr uint64_t kEntriesPerTable = 512;
constexpr uint64_t kMappedGiB = 4;
constexpr uint64_t kLargePageBytes = uint64_t{2} << 20;
// PML4, one page directory pointer table, and a page directory for each GiB.
constexpr uint64_t kPageTablePages = 2 + kMappedGiB;
static_assert(kPageTablesAddress.value() + kPageTablePages * kPageBytes <= kCommandLineAddress.value());

SegmentRegister FlatSegment(uint16_t selector, uint8_t type) {
  return {.selector = selector,
          .limit = 0xffff'ffff,
          .type = type,
          .present = true,
          .code_or_data = true,
          .default_32bit = true,
          .page_granular = true};
}

// SDM volume 3, figure 3-8. The bases are zero here.
uint64_t Descriptor(const SegmentRegister& segment) {
  const uint64_t limit = segment.page_granular ? segment.limit >> 12 : segment.limit;
  return (limit & 0xffff) | uint64_t{segment.type} << 40 | uint64_t{segment.code_or_data} << 44 |
         uint64_t{segment.dpl} << 45 | uint64_t{segment.present} << 47 | ((limit >> 16) & 0xf) << 48 |
         uint64_t{segment.available} << 52 | uint64_t{segment.long_mode} << 53 | uint64_t{segment.default_32bit} << 54 |
         uint64_t{segment.page_granular} << 55;
}

// Sets the segments of `entry`, and writes the GDT that they could have been loaded from.
absl::Status SetUpSegments(GuestMemory& memory, bool long_mode, BootEntry& entry) {
  entry.cs = FlatSegment(kCodeSelector, kTypeCode);
  entry.cs.long_mode = long_mode;
  entry.cs.default_32bit = !long_mode;
  entry.data = FlatSegment(kDataSelector, kTypeData);
  entry.tr = {.selector = kTaskSelector, .limit = kTaskLimit, .type = kTypeBusyTask, .present = true};
  entry.ldt = {};

  std::array<uint64_t, kGdtEntries> gdt = {};
  gdt[kCodeSelector / 8] = Descriptor(entry.cs);
  gdt[kDataSelector / 8] = Descriptor(entry.data);
  gdt[kTaskSelector / 8] = Descriptor(entry.tr);  // in long mode its second half, zero, follows
  entry.gdt = {.base = kGdtAddress.value(), .limit = sizeof(gdt) - 1};
  entry.idt = {};
  return memory.WriteObject(kGdtAddress, gdt);
}

absl::Status WritePageTables(GuestMemory& memory) {
  std::array<uint64_t, kPageTablePages* kEntriesPerTable> tables = {};
  const auto table_address = [](uint64_t index) { return kPageTablesAddress.value() + index * kPageBytes; };
  tables[0] = table_address(1) | kPagePresentWritableUser;
  for (uint64_t i = 0; i < kMappedGiB; ++i) {
    tables[kEntriesPerTable + i] = table_address(2 + i) | kPagePresentWritableUser;
  }
  for (uint64_t i = 0; i < kMappedGiB * kEntriesPerTable; ++i) {
    tables[2 * kEntriesPerTable + i] = i * kLargePageBytes | kPageLarge | kPagePresentWritableUser;
  }
  return memory.WriteObject(kPageTablesAddress, tables);
}

}  // namespace

absl::Status SetUpLongMode(GuestMemory& memory, BootEntry& entry) {
  FERRITE_RETURN_IF_ERROR(SetUpSegments(memory, /*long_mode=*/true, entry));
  FERRITE_RETURN_IF_ERROR(WritePageTables(memory));
  entry.rsp = kBootStackTop.value();
  entry.cr0 = kCr0ProtectionEnable | kCr0ExtensionType | kCr0NumericError | kCr0Paging;
  entry.cr3 = kPageTablesAddress.value();
  entry.cr4 = kCr4PhysicalAddressExtension;
  entry.efer = kEferLongModeEnable | kEferLongModeActive;
  return absl::OkStatus();
}

absl::Status SetUpProtectedMode(GuestMemory& memory, BootEntry& entry) {
  FERRITE_RETURN_IF_ERROR(SetUpSegments(memory, /*long_mode=*/false, entry));
  entry.rsp = kBootStackTop.value();
  entry.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
  return absl::OkStatus();
}

}  // namespace ferrite
