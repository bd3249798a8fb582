#include "vmm/boot/boot_params.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/status.h"
#include "vmm/boot/acpi_tables.h"

namespace ferrite {
namespace {

// A page that is filled field by field.
class Page {
 public:
  template <typename T>
  void Put(size_t offset, T value) {
    FERRITE_CHECK(offset + sizeof(value) <= bytes_.size());
    std::memcpy(bytes_.data() + offset, &value, sizeof(value));
  }
  void PutBytes(size_t offset, const std::vector<uint8_t>& bytes) {
    FERRITE_CHECK(offset + bytes.size() <= bytes_.size());
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + offset);
  }
  uint8_t Get(size_t offset) const { return bytes_[offset]; }
  absl::Status WriteTo(GuestMemory& memory, GuestAddress address) const { return memory.Write(address, bytes_); }

 private:
  std::array<uint8_t, kPageBytes> bytes_ = {};
};

}  // namespace

absl::Status WriteZeroPage(GuestMemory& memory, const BootContents& contents) {
  constexpr size_t kMaxE820Entries = 128;
  constexpr size_t kE820EntryBytes = 20;
  constexpr size_t kE820Offset = 0x2d0;
  constexpr size_t kSetupHeaderOffset = 0x1f1;
  constexpr size_t kLoadFlagsOffset = 0x211;
  constexpr uint8_t kLoadedHigh = 1 << 0;
  constexpr uint8_t kUnknownLoader = 0xff;

  Page page;
  if (contents.setup_header.empty()) {
    page.Put<uint16_t>(0x1fe, 0xaa55);
    page.Put<uint32_t>(0x202, 0x5372'6448);  // "HdrS"
    page.Put<uint16_t>(0x206, 0x020c);
    page.Put<uint8_t>(kLoadFlagsOffset, kLoadedHigh);
  } else {
    page.PutBytes(kSetupHeaderOffset, contents.setup_header);
  }
  page.Put<uint64_t>(0x070, kAcpiTablesStart.value());
  page.Put<uint8_t>(0x210, kUnknownLoader);
  page.Put<uint32_t>(0x228, kCommandLineAddress.value());
  if (contents.initrd.has_value()) {
    page.Put<uint32_t>(0x218, contents.initrd->address.value());
    page.Put<uint32_t>(0x21c, contents.initrd->bytes);
  }
  const size_t entries = std::min(contents.memory_map.size(), kMaxE820Entries);
  page.Put<uint8_t>(0x1e8, entries);
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = kE820Offset + i * kE820EntryBytes;
    page.Put<uint64_t>(at, contents.memory_map[i].address);
    page.Put<uint64_t>(at + 8, contents.memory_map[i].bytes);
    page.Put<uint32_t>(at + 16, contents.memory_map[i].type);
  }
  return page.WriteTo(memory, kZeroPageAddress);
}

absl::Status WriteStartInfo(GuestMemory& memory, const BootContents& contents) {
  constexpr uint32_t kMagic = 0x336e'c578;
  constexpr uint32_t kVersion = 1;
  constexpr size_t kModuleOffset = 0x40;
  constexpr size_t kMemoryMapOffset = 0x80;
  constexpr size_t kMemoryMapEntryBytes = 24;
  const size_t entries = std::min(contents.memory_map.size(), (kPageBytes - kMemoryMapOffset) / kMemoryMapEntryBytes);

  Page page;
  page.Put<uint32_t>(0, kMagic);
  page.Put<uint32_t>(4, kVersion);
  if (contents.initrd.has_value()) {
    page.Put<uint32_t>(12, 1);
    page.Put<uint64_t>(16, kStartInfoAddress.value() + kModuleOffset);
    page.Put<uint64_t>(kModuleOffset, contents.initrd->address.value());
    page.Put<uint64_t>(kModuleOffset + 8, contents.initrd->bytes);
  }
  page.Put<uint64_t>(24, kCommandLineAddress.value());
  page.Put<uint64_t>(32, kAcpiTablesStart.value());
  page.Put<uint64_t>(40, kStartInfoAddress.value() + kMemoryMapOffset);
  page.Put<uint32_t>(48, entries);
  for (size_t i = 0; i < entries; ++i) {
    const size_t at = kMemoryMapOffset + i * kMemoryMapEntryBytes;
    page.Put<uint64_t>(at, contents.memory_map[i].address);
    page.Put<uint64_t>(at + 8, contents.memory_map[i].bytes);
    page.Put<uint32_t>(at + 16, contents.memory_map[i].type);
  }
  return page.WriteTo(memory, kStartInfoAddress);
}

}  // namespace ferrite
