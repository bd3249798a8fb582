#include "vmm/boot/kernel_image.h"

#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/test_images.h"

namespace ferrite {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;

using Image = std::vector<uint8_t>;

constexpr uint32_t kPvhNote = 18;

TEST(KernelImageTest, BzImageStartsAtIts64BitEntry) {
  const Image bytes = MakeBzImage(8192, 0x100'0000, 0x20'0000);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->protocol, BootProtocol::kLinux64);
  EXPECT_EQ(image->entry, 0x100'0200u);
  ASSERT_EQ(image->segments.size(), 1u);
  EXPECT_EQ(image->segments[0].file_offset, 3u * 512);
  EXPECT_EQ(image->segments[0].file_bytes, 8192u);
  EXPECT_EQ(image->segments[0].address, GuestAddress(0x100'0000));
  EXPECT_EQ(image->segments[0].memory_bytes, 0x20'0000u);
  EXPECT_EQ(image->max_command_line_bytes, 2047u);
  EXPECT_EQ(image->initrd_limit, GuestAddress(0x8000'0000));
  EXPECT_EQ(image->setup_header, Image(bytes.begin() + 0x1f1, bytes.begin() + 0x26c));
}

TEST(KernelImageTest, NoSetupSectorsMeansFour) {
  Image bytes = MakeBzImage();
  bytes[0x1f1] = 0;
  bytes.resize(5 * 512 + 4096);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].file_offset, 5u * 512);
}

TEST(KernelImageTest, BytesAfterTheKernelAreIgnored) {
  Image bytes = MakeBzImage();
  bytes.resize(bytes.size() + 1000, 0xff);  // a signature
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].file_bytes, 4096u);
}

// The header counts in paragraphs of 16 bytes; Linux fills the last one up, memtest86+ ends with its last byte.
TEST(KernelImageTest, TheLastParagraphNeedNotBeWhole) {
  for (const uint64_t missing : {1, 8, 15}) {
    Image bytes = MakeBzImage();
    bytes.resize(bytes.size() - missing);
    const auto image = ParseKernelImage(MemorySource(bytes));
    ASSERT_TRUE(image.ok()) << image.status();
    EXPECT_EQ(image->segments[0].file_bytes, 4096 - missing);
    EXPECT_EQ(image->segments[0].zero_bytes, missing);
    EXPECT_EQ(image->segments[0].memory_bytes, 0x10'0000u);
  }
}

TEST(KernelImageTest, AKernelThatNeedsNothingBesideItsCodeHasRoomForThat) {
  Image bytes = MakeBzImage();
  PutAt<uint32_t>(bytes, 0x260, 0);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].memory_bytes, 4096u);
}

TEST(KernelImageTest, OfALongSetupHeaderWhatTheZeroPageHasRoomForIsTaken) {
  Image bytes = MakeBzImage();
  PutAt<uint8_t>(bytes, 0x201, 0xff);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->setup_header, Image(bytes.begin() + 0x1f1, bytes.begin() + 0x290));
}

TEST(KernelImageTest, ElfWithoutNotesStartsAtItsOwnEntry) {
  const Image bytes = MakeElf();
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->protocol, BootProtocol::kElf64);
  EXPECT_EQ(image->entry, 0x10'0010u);
  ASSERT_EQ(image->segments.size(), 1u);
  EXPECT_EQ(image->segments[0].address, GuestAddress(0x10'0000));
  EXPECT_EQ(image->segments[0].file_bytes, 0x100u);
  EXPECT_EQ(image->segments[0].zero_bytes, 0x100u);
  EXPECT_EQ(image->segments[0].memory_bytes, 0x200u);
  EXPECT_EQ(image->passed_over, "");
  EXPECT_TRUE(image->setup_header.empty());
}

TEST(KernelImageTest, ElfWithPvhNoteStartsThere) {
  Image notes = MakeXenNote(6, 0x1234);
  const Image pvh = MakeXenNote(kPvhNote, 0x10'0020);
  notes.insert(notes.end(), pvh.begin(), pvh.end());
  const Image bytes = MakeElf(notes);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->protocol, BootProtocol::kPvh);
  EXPECT_EQ(image->entry, 0x10'0020u);
}

TEST(KernelImageTest, PvhNoteOfEightBytesCounts) {
  Image notes = MakeXenNote(kPvhNote, 0x10'0020);
  PutAt<uint32_t>(notes, offsetof(Elf64_Nhdr, n_descsz), 8);
  PutAt<uint32_t>(notes, 20, 0);
  const Image bytes = MakeElf(notes);
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->entry, 0x10'0020u);
}

// As a linker makes them that merges .note.gnu.property (aligned to 8) and .note.Xen (to 4) into one segment.
TEST(KernelImageTest, PvhNoteIsFoundAmongNotesOfAnyAlignment) {
  const Image pvh = MakeXenNote(kPvhNote, 0x10'0020);
  for (const uint64_t alignment : {0, 1, 4, 8, 16}) {
    for (const bool property_first : {true, false}) {
      Image notes;
      PutAt<Elf64_Nhdr>(notes, 0, {.n_namesz = 4, .n_descsz = 16, .n_type = 5});  // NT_GNU_PROPERTY_TYPE_0
      PutAt<uint32_t>(notes, 12, 0x0055'4e47);                                    // "GNU"
      notes.resize(32);
      const Image other = MakeXenNote(6, 0x1234);  // of 20 bytes: the next one begins at no multiple of 8
      notes.insert(property_first ? notes.end() : notes.begin(), other.begin(), other.end());
      notes.insert(property_first ? notes.end() : notes.begin() + 20, pvh.begin(), pvh.end());
      Image bytes = MakeElf(notes);
      PutAt<uint64_t>(bytes, kNotesHeaderOffset + offsetof(Elf64_Phdr, p_align), alignment);
      const auto image = ParseKernelImage(MemorySource(bytes));
      ASSERT_TRUE(image.ok()) << image.status();
      EXPECT_EQ(image->protocol, BootProtocol::kPvh) << alignment << property_first;
      EXPECT_EQ(image->entry, 0x10'0020u) << alignment << property_first;
    }
  }
}

Image Joined(std::initializer_list<Image> parts) {
  Image joined;
  for (const Image& part : parts) {
    joined.insert(joined.end(), part.begin(), part.end());
  }
  return joined;
}

Image MakePropertyNote() {
  Image note;
  PutAt<Elf64_Nhdr>(note, 0, {.n_namesz = 4, .n_descsz = 16, .n_type = 5});  // NT_GNU_PROPERTY_TYPE_0
  PutAt<uint32_t>(note, 12, 0x0055'4e47);                                    // "GNU"
  note.resize(32);
  return note;
}

// A note of another kind, whose description is `description`.
Image MakeNoteOf(const Image& description) {
  Image note = MakePropertyNote();
  PutAt<uint32_t>(note, offsetof(Elf64_Nhdr, n_descsz), static_cast<uint32_t>(description.size()));
  note.resize(16);
  return Joined({note, description});
}

// Where an ELF with these notes is entered.
uint64_t EntryWith(const Image& notes, uint64_t alignment) {
  Image bytes = MakeElf(notes);
  PutAt<uint64_t>(bytes, kNotesHeaderOffset + offsetof(Elf64_Phdr, p_align), alignment);
  const auto image = ParseKernelImage(MemorySource(bytes));
  EXPECT_TRUE(image.ok()) << image.status();
  if (!image.ok()) {
    return 0;
  }
  EXPECT_EQ(image->passed_over, "");
  return image->entry;
}

TEST(KernelImageTest, PvhNoteIsFoundBehindABrokenOne) {
  const Image good = MakeXenNote(kPvhNote, 0x10'0020);
  for (const uint32_t bytes : {uint32_t{0}, uint32_t{2}, UINT32_MAX}) {
    Image broken = MakeXenNote(kPvhNote, 0x10'0030);
    PutAt(broken, offsetof(Elf64_Nhdr, n_descsz), bytes);
    EXPECT_EQ(EntryWith(Joined({broken, good}), 4), 0x10'0020u) << bytes;
  }
  EXPECT_EQ(EntryWith(Joined({MakeXenNote(kPvhNote, 0x42), good}), 4), 0x10'0020u);
}

TEST(KernelImageTest, WhatADescriptionHoldsIsNoPvhNote) {
  const Image good = MakeXenNote(kPvhNote, 0x10'0020);
  const Image other = MakeNoteOf(MakeXenNote(kPvhNote, 0x10'0030));
  ASSERT_EQ(other.size() % 8, 4u);
  for (const uint64_t alignment : {4, 8}) {
    EXPECT_EQ(EntryWith(other, alignment), 0x10'0010u) << "its own, " << alignment;
    EXPECT_EQ(EntryWith(Joined({other, good}), alignment), 0x10'0020u) << alignment;
  }
  // As 8 has it, which 4 does not come through.
  EXPECT_EQ(EntryWith(Joined({other, Image(4), good}), 8), 0x10'0020u);
}

TEST(KernelImageTest, PvhNoteIsFoundAmongNotesThatNoAlignmentLeadsThrough) {
  const Image other = MakeXenNote(6, 0x1234);
  const Image good = MakeXenNote(kPvhNote, 0x10'0020);
  for (const uint64_t alignment : {4, 8}) {
    EXPECT_EQ(EntryWith(Joined({other, Image(4), MakePropertyNote(), other, good}), alignment), 0x10'0020u)
        << alignment;
  }
}

// An ELF with two segments: its own of 512 bytes at 1 MiB, and one of `bytes` at `address`.
Image TwoSegments(uint64_t address, uint64_t bytes) {
  Image image = MakeElf();
  PutAt<uint16_t>(image, offsetof(Elf64_Ehdr, e_phnum), 2);
  PutAt<Elf64_Phdr>(image, kNotesHeaderOffset, {.p_type = PT_LOAD, .p_paddr = address, .p_memsz = bytes});
  return image;
}

TEST(KernelImageTest, SegmentsMayTouchInAnyOrder) {
  for (const auto& [address, bytes] : {std::pair<uint64_t, uint64_t>{0x10'0200, 0x1000}, {0x20'0000, 1}}) {
    const Image image = TwoSegments(address, bytes);
    EXPECT_TRUE(ParseKernelImage(MemorySource(image)).ok()) << address;
  }
}

// 7 KiB that say to fill 113 GiB.
TEST(KernelImageTest, ManyLargeSegmentsAtOnePlaceAreRefused) {
  Image image = MakeElf();
  constexpr uint16_t kSegments = 128;
  PutAt<uint16_t>(image, offsetof(Elf64_Ehdr, e_phnum), kSegments);
  PutAt<uint64_t>(image, offsetof(Elf64_Ehdr, e_phoff), image.size());
  for (uint16_t i = 0; i < kSegments; ++i) {
    PutAt<Elf64_Phdr>(image, image.size(), {.p_type = PT_LOAD, .p_paddr = 0x10'0000, .p_memsz = uint64_t{900} << 20});
  }
  const auto parsed = ParseKernelImage(MemorySource(image));
  EXPECT_THAT(std::string(parsed.status().message()),
              HasSubstr("has ELF segments that overlap: 943718400 bytes at 0x100000 and 943718400 at 0x100000"));
}

// The kernel has a good 64-bit entry: nobody needs its notes.
struct BrokenNotes {
  std::string name;
  std::function<Image()> make;
  std::string passed_over;
};

void PrintTo(const BrokenNotes& broken, std::ostream* out) { *out << broken.name; }

class BrokenNotesTest : public ::testing::TestWithParam<BrokenNotes> {};

TEST_P(BrokenNotesTest, AreNoReasonToRefuse) {
  Image bytes = GetParam().make();
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->protocol, BootProtocol::kElf64);
  EXPECT_EQ(image->entry, 0x10'0010u);
  EXPECT_EQ(image->passed_over, GetParam().passed_over);

  // Without that entry they are, and both are told.
  PutAt<uint64_t>(bytes, offsetof(Elf64_Ehdr, e_entry), 0x10'0200);
  const auto refused = ParseKernelImage(MemorySource(bytes));
  EXPECT_THAT(std::string(refused.status().message()),
              AllOf(HasSubstr("has no entry: its 64-bit ELF entry 0x100200"), EndsWith(GetParam().passed_over)));
}

// R11: what is not a kernel for this machine is refused with the reason.
struct WrongImage {
  std::string name;
  std::function<Image()> make;
  std::string reason;
};

void PrintTo(const WrongImage& wrong, std::ostream* out) { *out << wrong.name; }

class WrongImageTest : public ::testing::TestWithParam<WrongImage> {};

TEST_P(WrongImageTest, IsRefusedWithTheReason) {
  const Image bytes = GetParam().make();
  const auto image = ParseKernelImage(MemorySource(bytes));
  ASSERT_FALSE(image.ok());
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(GetParam().reason));
}

template <typename T>
std::function<Image()> BzImageWith(size_t offset, T value) {
  return [=] {
    Image image = MakeBzImage();
    PutAt<T>(image, offset, value);
    return image;
  };
}

template <typename T>
std::function<Image()> ElfWith(size_t offset, T value) {
  return [=] {
    Image image = MakeElf(MakeXenNote(kPvhNote, 0x10'0020));
    PutAt<T>(image, offset, value);
    return image;
  };
}

template <typename T>
std::function<Image()> SegmentWith(size_t offset_in_header, T value) {
  return ElfWith<T>(kFirstHeaderOffset + offset_in_header, value);
}

std::function<Image()> NotesWith(size_t offset_in_header, uint64_t value) {
  return ElfWith<uint64_t>(kNotesHeaderOffset + offset_in_header, value);
}

std::function<Image()> StartsWith(std::string start, size_t at = 0) {
  return [=] {
    Image image(4096);
    std::copy(start.begin(), start.end(), image.begin() + static_cast<ptrdiff_t>(at));
    return image;
  };
}

std::function<Image()> Cut(Image image, size_t bytes) {
  image.resize(bytes);
  return [=] { return image; };
}

std::function<Image()> ElfWithNotes(Image notes) {
  return [=] { return MakeElf(notes); };
}

Image BrokenNote(size_t field, uint32_t value) {
  Image note = MakeXenNote(kPvhNote, 0x10'0020);
  PutAt(note, field, value);
  return note;
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongImageTest,
    ::testing::Values(
        WrongImage{"Gzip", StartsWith("\x1f\x8b\x08"), "is a gzip file, not a kernel: unpack it first (gunzip)"},
        WrongImage{"Xz", StartsWith("\xfd\x37zXZ"), "xz file"},
        WrongImage{"Zstd", StartsWith("\x28\xb5\x2f\xfd"), "zstd file"},
        WrongImage{"Bzip2", StartsWith("BZh9"), "bzip2 file"},
        WrongImage{"Package", StartsWith("!<arch>\ndebian-binary"), "is an archive or a package"},
        WrongImage{"Arm64", StartsWith("ARM\x64", 0x38), "is an ARM64 kernel"},
        WrongImage{"RiscV", StartsWith("RSC\x05", 0x38), "is a RISC-V kernel"},
        WrongImage{"Text", StartsWith("#!/bin/sh"), "neither a bzImage nor an ELF kernel"},
        WrongImage{"OneByte", Cut(MakeBzImage(), 1), "has only 1 bytes"},
        WrongImage{"BzImageCutInHeader", Cut(MakeBzImage(), 0x210), "is truncated"},
        WrongImage{"BzImageCutInCode", Cut(MakeBzImage(), 3 * 512 + 4080),
                   "is truncated: its header promises 5632 bytes, it has 5616"},
        WrongImage{"BzImageOld", BzImageWith<uint16_t>(0x206, 0x020b), "has boot protocol 2.11"},
        WrongImage{"BzImage32Bit", BzImageWith<uint16_t>(0x236, 0), "is a 32-bit kernel"},
        WrongImage{"ZImage", BzImageWith<uint8_t>(0x211, 0), "is a zImage"},
        WrongImage{"BzImageShortHeader", BzImageWith<uint8_t>(0x201, 0x20), "broken setup header"},
        WrongImage{"BzImageNoCode", BzImageWith<uint32_t>(0x1f4, 0), "has no entry"},
        WrongImage{"BzImageHugeCode", BzImageWith<uint32_t>(0x1f4, 0xffff'ffff), "is truncated"},
        WrongImage{"BzImageLow", BzImageWith<uint64_t>(0x258, 0x1000), "broken setup header"},
        WrongImage{"BzImageWraps", BzImageWith<uint64_t>(0x258, UINT64_MAX - 100), "broken setup header"},
        WrongImage{"ElfCutInHeader", Cut(MakeElf(), 40), "is truncated"},
        WrongImage{"ElfCutInSegment", Cut(MakeElf(), 0x2ff), "is truncated: the segment at 0x100000"},
        WrongImage{"ElfArm64", ElfWith<uint16_t>(18, EM_AARCH64), "is an ELF for ARM64"},
        WrongImage{"ElfUnknownMachine", ElfWith<uint16_t>(18, 4711), "ELF number 4711"},
        WrongImage{"Elf386", ElfWith<uint16_t>(18, EM_386), "is an ELF for 32-bit x86"},
        WrongImage{"ElfX32", ElfWith<uint8_t>(EI_CLASS, ELFCLASS32), "is a 32-bit ELF"},
        WrongImage{"ElfBigEndian", ElfWith<uint8_t>(EI_DATA, ELFDATA2MSB), "big-endian"},
        WrongImage{"Module", ElfWith<uint16_t>(16, ET_REL), "a kernel module?"},
        WrongImage{"SharedObject", ElfWith<uint16_t>(16, ET_DYN), "shared object"},
        WrongImage{"Program", SegmentWith<uint32_t>(0, PT_INTERP), "is a program for user space"},
        WrongImage{"ElfNoHeaders", ElfWith<uint16_t>(56, 0), "has 0 ELF program headers"},
        WrongImage{"ElfManyHeaders", ElfWith<uint16_t>(56, 0xffff), "has 65535 ELF program headers"},
        WrongImage{"ElfOddHeaders", ElfWith<uint16_t>(54, 32), "of 32 bytes"},
        WrongImage{"ElfHeadersOutside", ElfWith<uint64_t>(32, UINT64_MAX - 8), "is truncated"},
        WrongImage{"ElfEntryOutside", [] { Image image = MakeElf(); PutAt<uint64_t>(image, 24, 0x10'0200); return image; },
                   "has no entry: its 64-bit ELF entry 0x100200"},
        WrongImage{"SegmentsOverlapByAByte", [] { return TwoSegments(0x10'01ff, 1); },
                   "has ELF segments that overlap: 512 bytes at 0x100000 and 1 at 0x1001ff"},
        WrongImage{"SegmentInAnotherThatComesLater",
                   [] {
                     Image image = TwoSegments(0x10'0000, 0x10'0001);
                     PutAt<uint64_t>(image, kFirstHeaderOffset + offsetof(Elf64_Phdr, p_paddr), 0x20'0000);
                     return image;
                   },
                   "has ELF segments that overlap: 1048577 bytes at 0x100000 and 512 at 0x200000"},
        WrongImage{"SegmentLow", SegmentWith<uint64_t>(24, 0xf'f000), "the first MiB is not for kernels"},
        WrongImage{"SegmentWraps", SegmentWith<uint64_t>(40, UINT64_MAX - 0xfff), "broken ELF segment"},
        WrongImage{"SegmentOutside", SegmentWith<uint64_t>(8, UINT64_MAX), "is truncated"},
        WrongImage{"SegmentLongerInFile", SegmentWith<uint64_t>(40, 16), "broken ELF segment"},
        WrongImage{"NothingToLoad", SegmentWith<uint32_t>(0, PT_NULL), "has no entry"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    All, BrokenNotesTest,
    ::testing::Values(BrokenNotes{"NameTooLong", ElfWithNotes(BrokenNote(0, UINT32_MAX)), ""},
                      BrokenNotes{"TooLong", ElfWithNotes(BrokenNote(4, UINT32_MAX)), "has a broken PVH entry note"},
                      BrokenNotes{"TooShort", ElfWithNotes(BrokenNote(4, 2)), "has a broken PVH entry note"},
                      BrokenNotes{"Cut", ElfWithNotes(BrokenNote(4, 8)), "has a broken PVH entry note"},
                      BrokenNotes{"EntryOutside", ElfWithNotes(MakeXenNote(kPvhNote, 0x42)),
                                  "has a PVH entry 0x42 that lies in no loaded segment"},
                      BrokenNotes{"Huge", NotesWith(offsetof(Elf64_Phdr, p_filesz), uint64_t{1} << 40),
                                  "has 1099511627776 bytes of ELF notes; 1048576 is the most"},
                      BrokenNotes{"Outside", NotesWith(offsetof(Elf64_Phdr, p_offset), UINT64_MAX - 4),
                                  "has ELF notes at offset 18446744073709551611, past its end"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite
