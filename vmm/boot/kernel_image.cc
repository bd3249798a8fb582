#include "vmm/boot/kernel_image.h"

#include <elf.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "vmm/boot/boot_layout.h"

namespace ferrite {
namespace {

// Linux' COMMAND_LINE_SIZE on x86 less the terminating zero, for images that do not tell.
constexpr uint64_t kElfMaxCommandLineBytes = 2047;
constexpr uint64_t kMaxProgramHeaders = 128;
constexpr uint64_t kMaxNoteBytes = uint64_t{1} << 20;
constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kParagraphBytes = 16;
constexpr uint64_t kHeadBytes = 1024;

// Offsets in a bzImage, which are those of the zero page.
constexpr size_t kSetupSectorsOffset = 0x1f1;
constexpr size_t kSystemSizeOffset = 0x1f4;
constexpr size_t kBootFlagOffset = 0x1fe;
constexpr size_t kHeaderJumpOffset = 0x201;
constexpr size_t kHeaderMagicOffset = 0x202;
constexpr size_t kVersionOffset = 0x206;
constexpr size_t kLoadFlagsOffset = 0x211;
constexpr size_t kInitrdAddressMaxOffset = 0x22c;
constexpr size_t kXLoadFlagsOffset = 0x236;
constexpr size_t kCommandLineSizeOffset = 0x238;
constexpr size_t kPreferredAddressOffset = 0x258;
constexpr size_t kInitSizeOffset = 0x260;
// The zero page has room for the header up to here.
constexpr size_t kSetupHeaderEnd = 0x290;

constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr uint16_t kVersionWithXLoadFlags = 0x020c;
constexpr uint8_t kLoadedHigh = 1 << 0;
constexpr uint16_t kXlfKernel64 = 1 << 0;
constexpr uint64_t kEntry64Offset = 0x200;

// The first bytes of the file; what lies past a short file's end reads as zero.
class Head {
 public:
  static absl::StatusOr<Head> Read(const ByteSource& file) {
    Head head;
    const size_t bytes = std::min<uint64_t>(file.size(), kHeadBytes);
    FERRITE_RETURN_IF_ERROR(file.Read(0, std::span(head.bytes_).first(bytes)));
    return head;
  }

  template <typename T>
  T Get(size_t offset) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  bool Has(size_t offset, absl::string_view bytes) const {
    return std::memcmp(bytes_.data() + offset, bytes.data(), bytes.size()) == 0;
  }
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  std::array<uint8_t, kHeadBytes> bytes_ = {};
};

absl::Status Wrong(absl::string_view what) { return absl::InvalidArgumentError(what); }

std::string MachineName(uint16_t machine) {
  switch (machine) {
    case EM_386:
      return "32-bit x86";
    case EM_AARCH64:
      return "ARM64";
    case EM_ARM:
      return "ARM";
    case EM_RISCV:
      return "RISC-V";
    case EM_PPC64:
      return "POWER";
    case EM_S390:
      return "s390";
    case EM_MIPS:
      return "MIPS";
    default:
      return absl::StrCat("another machine (ELF number ", machine, ")");
  }
}

// What a file that is neither bzImage nor ELF may be.
absl::Status UnknownImage(const Head& head, const ByteSource& file) {
  struct Compression {
    absl::string_view magic;
    absl::string_view name;
    absl::string_view tool;
  };
  static constexpr Compression kCompressions[] = {
      {"\x1f\x8b", "gzip", "gunzip"},         {"\xfd\x37zXZ", "xz", "unxz"},
      {"\x28\xb5\x2f\xfd", "zstd", "unzstd"}, {"\x04\x22\x4d\x18", "lz4", "unlz4"},
      {"\x02\x21\x4c\x18", "lz4", "unlz4"},   {"BZh", "bzip2", "bunzip2"},
  };
  for (const Compression& compression : kCompressions) {
    if (head.Has(0, compression.magic)) {
      return Wrong(
          absl::StrCat("is a ", compression.name, " file, not a kernel: unpack it first (", compression.tool, ")"));
    }
  }
  if (head.Has(0x38, "ARM\x64")) {
    return Wrong("is an ARM64 kernel; this machine runs x86-64 kernels");
  }
  if (head.Has(0x38, "RSC\x05") || head.Has(0x30, "RISCV")) {
    return Wrong("is a RISC-V kernel; this machine runs x86-64 kernels");
  }
  if (head.Has(0, "!<arch>")) {
    return Wrong("is an archive or a package, not a kernel: unpack it and give the vmlinuz in it");
  }
  if (file.size() < kHeadBytes) {
    return Wrong(absl::StrCat("has only ", file.size(), " bytes: neither a bzImage nor an ELF kernel"));
  }
  return Wrong("is neither a bzImage nor an ELF kernel");
}

absl::StatusOr<KernelImage> ParseBzImage(const Head& head, const ByteSource& file) {
  const uint16_t version = head.Get<uint16_t>(kVersionOffset);
  if (version < kVersionWithXLoadFlags) {
    return Wrong(absl::StrFormat("has boot protocol %d.%02d, which has no 64-bit entry: at least 2.12 is needed",
                                 version >> 8, version & 0xff));
  }
  if ((head.Get<uint16_t>(kXLoadFlagsOffset) & kXlfKernel64) == 0) {
    return Wrong("is a 32-bit kernel (no 64-bit entry); an x86-64 kernel is needed");
  }
  if ((head.Get<uint8_t>(kLoadFlagsOffset) & kLoadedHigh) == 0) {
    return Wrong("is a zImage that loads below 1 MiB; a bzImage is needed");
  }
  // What a longer header has past the zero page's room is not for us.
  const uint64_t header_end =
      std::min(kHeaderMagicOffset + head.Get<uint8_t>(kHeaderJumpOffset), uint64_t{kSetupHeaderEnd});
  if (header_end < kInitSizeOffset + sizeof(uint32_t)) {
    return Wrong(absl::StrFormat("has a broken setup header (it ends at %#x)", header_end));
  }

  const uint64_t setup_sectors = head.Get<uint8_t>(kSetupSectorsOffset);
  const uint64_t setup_bytes = ((setup_sectors == 0 ? 4 : setup_sectors) + 1) * kSectorBytes;
  const uint64_t code_bytes = uint64_t{head.Get<uint32_t>(kSystemSizeOffset)} * kParagraphBytes;
  // The last paragraph need not be whole: Linux fills it up, others end with their last byte.
  if (file.size() + kParagraphBytes <= setup_bytes + code_bytes) {
    return Wrong(
        absl::StrCat("is truncated: its header promises ", setup_bytes + code_bytes, " bytes, it has ", file.size()));
  }
  if (code_bytes <= kEntry64Offset) {
    return Wrong("has no entry: its code is empty");
  }
  const uint64_t file_bytes = std::min(code_bytes, file.size() - setup_bytes);
  // A relocatable kernel, too, unpacks itself to its preferred address when it was loaded below, so nothing is gained
  // by loading it anywhere else.
  const uint64_t address = head.Get<uint64_t>(kPreferredAddressOffset);
  if (address < kKernelMin.value() || address >= kMmioHoleStart.value()) {
    return Wrong(absl::StrFormat("has a broken setup header (it prefers the address %#x)", address));
  }

  const auto setup_header = head.bytes().subspan(kSetupSectorsOffset, header_end - kSetupSectorsOffset);
  return KernelImage{
      .protocol = BootProtocol::kLinux64,
      .entry = address + kEntry64Offset,
      .segments = {{.file_offset = setup_bytes,
                    .file_bytes = file_bytes,
                    .zero_bytes = code_bytes - file_bytes,
                    .address = GuestAddress(address),
                    // The kernel says how much it needs from the start on; its own bytes it needs in any case.
                    .memory_bytes = std::max<uint64_t>(code_bytes, head.Get<uint32_t>(kInitSizeOffset))}},
      .max_command_line_bytes = head.Get<uint32_t>(kCommandLineSizeOffset),
      .initrd_limit = GuestAddress(uint64_t{head.Get<uint32_t>(kInitrdAddressMaxOffset)} + 1),
      .setup_header = {setup_header.begin(), setup_header.end()},
  };
}

bool IsLoaded(const KernelImage& image, uint64_t address) {
  return std::any_of(image.segments.begin(), image.segments.end(), [&](const KernelSegment& segment) {
    return address >= segment.address.value() && address - segment.address.value() < segment.memory_bytes;
  });
}

// The PVH entry notes among a segment's notes, looked at in one way.
class PvhNotes {
 public:
  static constexpr size_t kMinAlignment = 4;

  PvhNotes(std::span<const uint8_t> notes, const KernelImage& image) : notes_(notes), image_(image) {}

  // Looks at every note, each beginning at the next multiple of `alignment`. False when that does not come out at the
  // segment's end, so that what was found may be no notes at all.
  bool Walk(size_t alignment) {
    const auto aligned = [&](uint64_t bytes) { return (bytes + alignment - 1) & ~uint64_t{alignment - 1}; };
    uint64_t at = 0;
    while (at + sizeof(Elf64_Nhdr) <= notes_.size()) {
      const Elf64_Nhdr note = Header(at);
      const uint64_t end = aligned(at + sizeof(note) + note.n_namesz) + note.n_descsz;
      if (end > notes_.size()) {
        return false;
      }
      Look(at);
      at = aligned(end);
    }
    const auto rest = notes_.subspan(std::min<uint64_t>(at, notes_.size()));
    return std::all_of(rest.begin(), rest.end(), [](uint8_t byte) { return byte == 0; });
  }

  // Looks at every multiple of 4, where all notes begin whatever surrounds them.
  void Scan() {
    for (uint64_t at = 0; at + sizeof(Elf64_Nhdr) <= notes_.size(); at += kMinAlignment) {
      Look(at);
    }
  }

  // The first good entry, if there is one, or what is wrong with the first that is not.
  absl::StatusOr<std::optional<uint64_t>> entry() const {
    return entry_.has_value() || wrong_.ok() ? absl::StatusOr<std::optional<uint64_t>>(entry_) : wrong_;
  }

 private:
  Elf64_Nhdr Header(uint64_t at) const {
    Elf64_Nhdr note;
    std::memcpy(&note, notes_.data() + at, sizeof(note));
    return note;
  }

  void Look(uint64_t at) {
    constexpr uint32_t kPhys32EntryType = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
    constexpr absl::string_view kName("Xen\0", 4);
    const Elf64_Nhdr note = Header(at);
    const std::span<const uint8_t> rest = notes_.subspan(at + sizeof(note));
    if (entry_.has_value() || note.n_type != kPhys32EntryType || note.n_namesz != kName.size() ||
        rest.size() < kName.size() || std::memcmp(rest.data(), kName.data(), kName.size()) != 0) {
      return;
    }
    // The name has 4 bytes: the description follows at once in either alignment.
    const std::span<const uint8_t> description = rest.subspan(kName.size());
    uint64_t entry = 0;
    if ((note.n_descsz != 4 && note.n_descsz != 8) || note.n_descsz > description.size()) {
      wrong_.Update(Wrong("has a broken PVH entry note"));
      return;
    }
    std::memcpy(&entry, description.data(), note.n_descsz);
    if (!IsLoaded(image_, entry)) {
      wrong_.Update(Wrong(absl::StrFormat("has a PVH entry %#x that lies in no loaded segment", entry)));
      return;
    }
    entry_ = entry;
  }

  const std::span<const uint8_t> notes_;
  const KernelImage& image_;
  std::optional<uint64_t> entry_;
  absl::Status wrong_;
};

// The PVH entry in the notes of `header`, a PT_NOTE of `image`, if there is one. INVALID_ARGUMENT says what is wrong
// with them.
//
// Linkers put notes of different alignment into one segment, whose own alignment then says nothing about where each
// of them begins. Only notes through which no alignment leads are searched for what looks like an entry: a description
// may hold that, too.
absl::StatusOr<std::optional<uint64_t>> FindPvhEntry(const ByteSource& file, const Elf64_Phdr& header,
                                                     const KernelImage& image) {
  constexpr size_t kMaxAlignment = 8;
  if (header.p_filesz > kMaxNoteBytes) {
    return Wrong(absl::StrCat("has ", header.p_filesz, " bytes of ELF notes; ", kMaxNoteBytes, " is the most"));
  }
  std::vector<uint8_t> notes(header.p_filesz);
  if (absl::Status status = file.Read(header.p_offset, notes); absl::IsInvalidArgument(status)) {
    return Wrong(absl::StrCat("has ELF notes at offset ", header.p_offset, ", past its end"));
  } else if (!status.ok()) {
    return status;
  }
  PvhNotes walked(notes, image);
  if (walked.Walk(PvhNotes::kMinAlignment)) {
    return walked.entry();
  }
  if (PvhNotes wider(notes, image); header.p_align == kMaxAlignment && wider.Walk(kMaxAlignment)) {
    return wider.entry();
  }
  PvhNotes scanned(notes, image);
  scanned.Scan();
  return scanned.entry();
}

absl::StatusOr<KernelSegment> ParseSegment(const ByteSource& file, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz) {
    return Wrong(absl::StrFormat("has a broken ELF segment at %#x: %d bytes in the file, %d in memory", header.p_paddr,
                                 header.p_filesz, header.p_memsz));
  }
  if (header.p_offset > file.size() || header.p_filesz > file.size() - header.p_offset) {
    return Wrong(absl::StrFormat("is truncated: the segment at %#x needs %d bytes at offset %d, the file has %d",
                                 header.p_paddr, header.p_filesz, header.p_offset, file.size()));
  }
  if (header.p_paddr < kKernelMin.value()) {
    return Wrong(absl::StrFormat("loads at %#x; the first MiB is not for kernels", header.p_paddr));
  }
  if (header.p_paddr + header.p_memsz < header.p_paddr) {
    return Wrong(absl::StrFormat("has a broken ELF segment at %#x: %d bytes", header.p_paddr, header.p_memsz));
  }
  return KernelSegment{.file_offset = header.p_offset,
                       .file_bytes = header.p_filesz,
                       .zero_bytes = header.p_memsz - header.p_filesz,
                       .address = GuestAddress(header.p_paddr),
                       .memory_bytes = header.p_memsz};
}

absl::Status CheckElfHeader(const Head& head) {
  if (head.Get<uint8_t>(EI_DATA) != ELFDATA2LSB) {
    return Wrong("is a big-endian ELF; this machine runs x86-64 kernels");
  }
  // e_machine is at the same place in both classes.
  const uint16_t machine = head.Get<uint16_t>(offsetof(Elf64_Ehdr, e_machine));
  if (machine != EM_X86_64) {
    return Wrong(absl::StrCat("is an ELF for ", MachineName(machine), "; this machine runs x86-64 kernels"));
  }
  if (head.Get<uint8_t>(EI_CLASS) != ELFCLASS64) {
    return Wrong("is a 32-bit ELF; an x86-64 kernel is needed");
  }
  const uint16_t type = head.Get<uint16_t>(offsetof(Elf64_Ehdr, e_type));
  if (type == ET_REL) {
    return Wrong("is an ELF object file (a kernel module?), not a kernel");
  }
  if (type != ET_EXEC) {
    return Wrong("is an ELF of a kind that is not linked to an address (shared object or core), not a kernel");
  }
  return absl::OkStatus();
}

// Segments that overlap are no kernel's: of a file of some KiB they could make more to load than the machine has
// memory.
absl::Status CheckOverlaps(std::vector<KernelSegment> segments) {
  std::sort(segments.begin(), segments.end(),
            [](const KernelSegment& a, const KernelSegment& b) { return a.address < b.address; });
  for (size_t i = 1; i < segments.size(); ++i) {
    const KernelSegment& below = segments[i - 1];
    const KernelSegment& above = segments[i];
    if (below.address + below.memory_bytes > above.address) {
      return Wrong(absl::StrFormat("has ELF segments that overlap: %d bytes at %#x and %d at %#x", below.memory_bytes,
                                   below.address.value(), above.memory_bytes, above.address.value()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<KernelImage> ParseElf(const Head& head, const ByteSource& file) {
  FERRITE_RETURN_IF_ERROR(CheckElfHeader(head));
  const auto elf = head.Get<Elf64_Ehdr>(0);
  if (elf.e_phnum == 0 || elf.e_phnum > kMaxProgramHeaders || elf.e_phentsize != sizeof(Elf64_Phdr)) {
    return Wrong(absl::StrCat("has ", elf.e_phnum, " ELF program headers of ", elf.e_phentsize, " bytes; 1 to ",
                              kMaxProgramHeaders, " of ", sizeof(Elf64_Phdr), " can be loaded"));
  }
  std::vector<Elf64_Phdr> headers(elf.e_phnum);
  FERRITE_RETURN_IF_ERROR(
      file.Read(elf.e_phoff, {reinterpret_cast<uint8_t*>(headers.data()), headers.size() * sizeof(Elf64_Phdr)}));

  KernelImage image{
      .protocol = BootProtocol::kElf64,
      .entry = elf.e_entry,
      .max_command_line_bytes = kElfMaxCommandLineBytes,
      .initrd_limit = kMmioHoleStart,
  };
  for (const Elf64_Phdr& header : headers) {
    if (header.p_type == PT_INTERP) {
      return Wrong("is a program for user space (it names a dynamic linker), not a kernel");
    }
    if (header.p_type == PT_LOAD && header.p_memsz > 0) {
      FERRITE_ASSIGN_OR_RETURN(const KernelSegment segment, ParseSegment(file, header));
      image.segments.push_back(segment);
    }
  }
  FERRITE_RETURN_IF_ERROR(CheckOverlaps(image.segments));
  // All segments are known now: an entry that lies in none of them does not hide a good one.
  for (const Elf64_Phdr& header : headers) {
    if (header.p_type != PT_NOTE) {
      continue;
    }
    const auto found = FindPvhEntry(file, header, image);
    if (found.ok() && found->has_value()) {
      image.protocol = BootProtocol::kPvh;
      image.entry = **found;
      image.passed_over.clear();
      return image;
    }
    if (absl::IsInvalidArgument(found.status())) {
      image.passed_over = std::string(found.status().message());
    } else if (!found.ok()) {
      return found.status();
    }
  }
  if (!IsLoaded(image, image.entry)) {
    const std::string and_what = image.passed_over.empty() ? "" : absl::StrCat(", and it ", image.passed_over);
    return Wrong(
        absl::StrFormat("has no entry: its 64-bit ELF entry %#x lies in no loaded segment%s", image.entry, and_what));
  }
  return image;
}

}  // namespace

absl::StatusOr<KernelImage> ParseKernelImage(const ByteSource& file) {
  FERRITE_ASSIGN_OR_RETURN(const Head head, Head::Read(file));
  if (head.Has(0, absl::string_view(ELFMAG, SELFMAG))) {
    if (file.size() < sizeof(Elf64_Ehdr)) {
      return Wrong(absl::StrCat("is truncated: an ELF file of ", file.size(), " bytes"));
    }
    return ParseElf(head, file);
  }
  if (head.Get<uint32_t>(kHeaderMagicOffset) == kHeaderMagic && head.Get<uint16_t>(kBootFlagOffset) == kBootFlag) {
    if (file.size() < kHeadBytes) {
      return Wrong(absl::StrCat("is truncated: a bzImage of ", file.size(), " bytes"));
    }
    return ParseBzImage(head, file);
  }
  return UnknownImage(head, file);
}

}  // namespace ferrite
