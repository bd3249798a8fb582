#include "bench/qemu_boot.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/fd.h"
#include "base/status.h"
#include "bench/qemu_boot_layout.h"

extern "C" {
extern const uint8_t qemu_boot_rom[];
extern const uint8_t qemu_boot_rom_end[];
extern const uint8_t qemu_boot_ram[];
extern const uint8_t qemu_boot_ram_end[];
}

namespace ferrite {
namespace {

// QEMU wants a multiple of 64 KiB.
constexpr size_t kRomBytes = 1 << 16;
constexpr size_t kPage = 4096;
constexpr uint64_t kMostMemory = uint64_t{3} << 30;

constexpr uint64_t kTableBits = 0x7;  // present, writable, user: the guest is in ring 3
constexpr uint64_t kLargePage = 0x80;
constexpr uint64_t kTableEntries = 512;
constexpr uint64_t kDirectories = 4;

// Offsets in struct boot_params (Linux, Documentation/arch/x86/zero-page.rst and boot.rst).
constexpr size_t kE820Entries = 0x1e8;
constexpr size_t kCommandLine = 0x228;
constexpr size_t kE820Table = 0x2d0;
constexpr size_t kE820EntryBytes = 20;
constexpr uint32_t kE820Ram = 1;
constexpr uint64_t kLowMemoryEnd = 0x9f000;
constexpr uint64_t kHighMemory = 0x100000;

class Image {
 public:
  // By the guest's address.
  template <typename T>
  void Put(uint64_t address, T value) {
    std::memcpy(bytes_.data() + (address - QEMU_BOOT_BASE), &value, sizeof(value));
  }
  void Copy(uint64_t address, const void* data, size_t bytes) {
    std::memcpy(bytes_.data() + (address - QEMU_BOOT_BASE), data, bytes);
  }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<uint8_t> bytes_ = std::vector<uint8_t>(QEMU_BOOT_COMMAND_LINE + kPage - QEMU_BOOT_BASE);
};

void PutPageTables(Image& image) {
  constexpr uint64_t kPointers = QEMU_BOOT_PAGE_TABLES + kPage;
  constexpr uint64_t kFirstDirectory = kPointers + kPage;
  image.Put(QEMU_BOOT_PAGE_TABLES, kPointers | kTableBits);
  for (uint64_t i = 0; i < kDirectories; ++i) {
    const uint64_t directory = kFirstDirectory + i * kPage;
    image.Put(kPointers + i * sizeof(uint64_t), directory | kTableBits);
    for (uint64_t j = 0; j < kTableEntries; ++j) {
      image.Put(directory + j * sizeof(uint64_t), ((i * kTableEntries + j) << 21) | kLargePage | kTableBits);
    }
  }
}

void PutZeroPage(Image& image, uint64_t memory_bytes) {
  const auto range = [&](size_t entry, uint64_t begin, uint64_t end) {
    const uint64_t at = QEMU_BOOT_ZERO_PAGE + kE820Table + entry * kE820EntryBytes;
    image.Put(at, begin);
    image.Put(at + 8, end - begin);
    image.Put(at + 16, kE820Ram);
  };
  range(0, 0, kLowMemoryEnd);
  range(1, kHighMemory, memory_bytes);
  image.Put(QEMU_BOOT_ZERO_PAGE + kE820Entries, uint8_t{2});
  image.Put(QEMU_BOOT_ZERO_PAGE + kCommandLine, uint32_t{QEMU_BOOT_COMMAND_LINE});
}

absl::Status WriteFile(const std::string& path, const std::vector<uint8_t>& bytes) {
  FERRITE_ASSIGN_OR_RETURN(const Fd file, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size())
             ? absl::OkStatus()
             : ErrnoStatus(absl::StrCat("write ", path));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MakeQemuBoot(const std::string& directory, const std::string& payload,
                                                      uint64_t memory_bytes, absl::string_view command_line) {
  if (memory_bytes > kMostMemory || command_line.size() >= kPage) {
    return absl::InvalidArgumentError("QEMU's guest has at most 3 GiB and 4095 bytes of command line here");
  }
  std::vector<uint8_t> rom(kRomBytes);
  std::copy(qemu_boot_rom, qemu_boot_rom_end, rom.end() - (qemu_boot_rom_end - qemu_boot_rom));
  Image image;
  image.Copy(QEMU_BOOT_BASE, qemu_boot_ram, static_cast<size_t>(qemu_boot_ram_end - qemu_boot_ram));
  PutPageTables(image);
  PutZeroPage(image, memory_bytes);
  image.Copy(QEMU_BOOT_COMMAND_LINE, std::string(command_line).c_str(), command_line.size() + 1);
  const std::string firmware = absl::StrCat(directory, "/firmware");
  const std::string boot = absl::StrCat(directory, "/boot");
  FERRITE_RETURN_IF_ERROR(WriteFile(firmware, rom));
  FERRITE_RETURN_IF_ERROR(WriteFile(boot, image.bytes()));
  return std::vector<std::string>{
      "-bios",   firmware,
      "-device", absl::StrFormat("loader,file=%s,addr=%#x,force-raw=on", boot, QEMU_BOOT_BASE),
      "-device", absl::StrCat("loader,file=", payload)};
}

}  // namespace ferrite
