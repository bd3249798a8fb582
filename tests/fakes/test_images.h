// Kernel images made in tests, right in all that the loader looks at unless a test spoils them.
#ifndef FERRITE_TESTS_FAKES_TEST_IMAGES_H_
#define FERRITE_TESTS_FAKES_TEST_IMAGES_H_

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "vmm/boot/byte_source.h"

namespace ferrite {

class MemorySource : public ByteSource {
 public:
  explicit MemorySource(std::span<const uint8_t> bytes) : bytes_(bytes) {}
  uint64_t size() const override { return bytes_.size(); }
  absl::Status Read(uint64_t offset, std::span<uint8_t> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset) {
      return absl::InvalidArgumentError("is truncated");
    }
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return absl::OkStatus();
  }

 private:
  std::span<const uint8_t> bytes_;
};

template <typename T>
void PutAt(std::vector<uint8_t>& bytes, size_t offset, T value) {
  if (bytes.size() < offset + sizeof(T)) {
    bytes.resize(offset + sizeof(T));
  }
  std::memcpy(bytes.data() + offset, &value, sizeof(T));
}

// A bzImage with two setup sectors and `code_bytes` (a multiple of 16) of code whose bytes are 0xc0.
inline std::vector<uint8_t> MakeBzImage(uint32_t code_bytes = 4096, uint64_t address = 0x10'0000,
                                        uint32_t init_bytes = 0x10'0000) {
  std::vector<uint8_t> image(3 * 512);
  PutAt<uint8_t>(image, 0x1f1, 2);
  PutAt<uint32_t>(image, 0x1f4, code_bytes / 16);
  PutAt<uint16_t>(image, 0x1fe, 0xaa55);
  PutAt<uint16_t>(image, 0x200, 0x6aeb);  // a jump over the header, which ends at 0x26c
  PutAt<uint32_t>(image, 0x202, 0x5372'6448);
  PutAt<uint16_t>(image, 0x206, 0x020f);
  PutAt<uint8_t>(image, 0x211, 1);
  PutAt<uint32_t>(image, 0x22c, 0x7fff'ffff);
  PutAt<uint32_t>(image, 0x230, 0x20'0000);
  PutAt<uint16_t>(image, 0x236, 1);
  PutAt<uint32_t>(image, 0x238, 2047);
  PutAt<uint64_t>(image, 0x258, address);
  PutAt<uint32_t>(image, 0x260, init_bytes);
  image.resize(image.size() + code_bytes, 0xc0);
  return image;
}

// A note of Xen's with a description of four bytes.
inline std::vector<uint8_t> MakeXenNote(uint32_t type, uint32_t description) {
  std::vector<uint8_t> note;
  PutAt<Elf64_Nhdr>(note, 0, {.n_namesz = 4, .n_descsz = 4, .n_type = type});
  PutAt<uint32_t>(note, 12, 0x006e'6558);  // "Xen"
  PutAt<uint32_t>(note, 16, description);
  return note;
}

// An executable with one segment of 256 bytes 0xc0 and as much bss at 1 MiB, entered 16 bytes in, and `notes` if any.
inline std::vector<uint8_t> MakeElf(const std::vector<uint8_t>& notes = {}) {
  constexpr uint64_t kSegmentOffset = 0x200;
  constexpr uint64_t kSegmentBytes = 0x100;
  constexpr uint64_t kNotesOffset = kSegmentOffset + kSegmentBytes;
  constexpr uint64_t kAddress = 0x10'0000;
  std::vector<uint8_t> image;
  Elf64_Ehdr elf = {};
  std::memcpy(elf.e_ident, ELFMAG, SELFMAG);
  elf.e_ident[EI_CLASS] = ELFCLASS64;
  elf.e_ident[EI_DATA] = ELFDATA2LSB;
  elf.e_ident[EI_VERSION] = EV_CURRENT;
  elf.e_type = ET_EXEC;
  elf.e_machine = EM_X86_64;
  elf.e_version = EV_CURRENT;
  elf.e_entry = kAddress + 0x10;
  elf.e_phoff = sizeof(Elf64_Ehdr);
  elf.e_ehsize = sizeof(Elf64_Ehdr);
  elf.e_phentsize = sizeof(Elf64_Phdr);
  elf.e_phnum = notes.empty() ? 1 : 2;
  PutAt(image, 0, elf);
  PutAt<Elf64_Phdr>(image, sizeof(Elf64_Ehdr),
                    {.p_type = PT_LOAD,
                     .p_flags = PF_R | PF_W | PF_X,
                     .p_offset = kSegmentOffset,
                     .p_vaddr = 0xffff'ffff'8010'0000,
                     .p_paddr = kAddress,
                     .p_filesz = kSegmentBytes,
                     .p_memsz = 2 * kSegmentBytes,
                     .p_align = 0x1000});
  if (!notes.empty()) {
    PutAt<Elf64_Phdr>(
        image, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
        {.p_type = PT_NOTE, .p_offset = kNotesOffset, .p_filesz = notes.size(), .p_memsz = notes.size(), .p_align = 4});
  }
  image.resize(kSegmentOffset);
  image.resize(kNotesOffset, 0xc0);
  image.insert(image.end(), notes.begin(), notes.end());
  return image;
}

// Offsets of MakeElf()'s program headers.
inline constexpr size_t kFirstHeaderOffset = sizeof(Elf64_Ehdr);
inline constexpr size_t kNotesHeaderOffset = kFirstHeaderOffset + sizeof(Elf64_Phdr);

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TEST_IMAGES_H_
