#include "vmm/boot/boot_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/pinned_file.h"
#include "base/sha256.h"
#include "tests/fakes/test_images.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/boot_layout.h"

namespace ferrite {
namespace {

using ::testing::Each;
using ::testing::EndsWith;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint32_t kPvhNote = 18;

class BootLoaderTest : public ::testing::Test {
 protected:
  BootLoaderTest() {
    std::string directory = ::testing::TempDir() + "/boot.XXXXXX";
    EXPECT_NE(mkdtemp(directory.data()), nullptr);
    directory_ = directory;
    SetMemory(16 * kMiB);
  }
  ~BootLoaderTest() override {
    for (const std::string& path : files_) {
      unlink(path.c_str());
    }
    rmdir(directory_.c_str());
  }

  void SetMemory(uint64_t bytes) {
    auto memory = GuestMemory::Create(bytes, MemoryBacking::kMemfd);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
  }

  std::string File(const std::string& name, const std::vector<uint8_t>& bytes) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    files_.push_back(path);
    return path;
  }

  void UseKernel(const std::vector<uint8_t>& image) { kernel_path_ = File("kernel", image); }

  absl::StatusOr<BootEntry> Try() {
    const auto find = [this](const std::string& path, std::optional<BootFile>& file) -> absl::Status {
      if (pinned_) {
        return absl::OkStatus();
      }
      file.reset();
      if (path.empty()) {
        return absl::OkStatus();
      }
      auto found = PinnedFile::Find(path, PinnedFile::Links::kAll);
      if (found.ok()) {
        file = BootFile{.file = *std::move(found), .content = std::nullopt};
      }
      return found.status();
    };
    if (absl::Status status = find(kernel_path_, kernel_); !status.ok()) {
      return status;
    }
    if (absl::Status status = find(initrd_path_, initrd_); !status.ok()) {
      return status;
    }
    options_.kernel = &*kernel_;
    options_.initrd = initrd_.has_value() ? &*initrd_ : nullptr;
    return LoadKernel(*memory_, options_);
  }

  BootEntry Load() {
    auto entry = Try();
    EXPECT_TRUE(entry.ok()) << entry.status();
    return entry.ok() ? *entry : BootEntry{};
  }

  std::string Error() {
    const auto entry = Try();
    EXPECT_FALSE(entry.ok());
    const std::string message(entry.status().message());
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
  }

  template <typename T>
  T Get(uint64_t address) {
    auto value = memory_->ReadObject<T>(GuestAddress(address));
    EXPECT_TRUE(value.ok()) << value.status();
    return value.ok() ? *value : T{};
  }
  std::vector<uint8_t> Bytes(uint64_t address, uint64_t count) {
    std::vector<uint8_t> bytes(count);
    EXPECT_TRUE(memory_->Read(GuestAddress(address), bytes).ok());
    return bytes;
  }
  std::string Text(uint64_t address) {
    const std::vector<uint8_t> bytes = Bytes(address, 4096);
    return std::string(bytes.begin(), std::find(bytes.begin(), bytes.end(), 0));
  }

  std::string directory_;
  std::vector<std::string> files_;
  std::unique_ptr<GuestMemory> memory_;
  BootOptions options_;
  std::string kernel_path_;
  std::string initrd_path_;
  // Found by each Try(), unless it is to keep what it has.
  bool pinned_ = false;
  std::optional<BootFile> kernel_;
  std::optional<BootFile> initrd_;
};

TEST_F(BootLoaderTest, BzImageIsEnteredInLongModeWithTheZeroPage) {
  UseKernel(MakeBzImage(8192, 4 * kMiB, 2 * kMiB));
  options_.command_line = "console=ttyS0 panic=-1";
  const BootEntry entry = Load();
  EXPECT_EQ(entry.protocol, BootProtocol::kLinux64);
  EXPECT_EQ(entry.rip, 4 * kMiB + 0x200);
  EXPECT_EQ(entry.rsi, kZeroPageAddress.value());
  EXPECT_EQ(entry.rflags, 2u);
  EXPECT_EQ(entry.cr0 & 0x8000'0001, 0x8000'0001);
  EXPECT_TRUE(entry.cr4 & 0x20);
  EXPECT_EQ(entry.efer, 0x500u);
  EXPECT_TRUE(entry.cs.long_mode);
  EXPECT_FALSE(entry.cs.default_32bit);

  EXPECT_THAT(Bytes(4 * kMiB, 8192), Each(0xc0));
  const uint64_t zero_page = entry.rsi;
  EXPECT_EQ(Get<uint32_t>(zero_page + 0x202), 0x5372'6448u);
  EXPECT_EQ(Get<uint64_t>(zero_page + 0x258), 4 * kMiB) << "the header is the file's";
  EXPECT_EQ(Get<uint8_t>(zero_page + 0x210), 0xff) << "type of loader";
  EXPECT_EQ(Get<uint64_t>(zero_page + 0x70), 0xe'0000u) << "RSDP";
  EXPECT_EQ(Text(Get<uint32_t>(zero_page + 0x228)), "console=ttyS0 panic=-1");
  EXPECT_EQ(Get<uint32_t>(zero_page + 0x218), 0u) << "no initrd";
  EXPECT_EQ(Text(0xe'0000).substr(0, 8), "RSD PTR ");
}

TEST_F(BootLoaderTest, WhatABzImageLeavesOutOfItsLastParagraphIsZero) {
  std::vector<uint8_t> kernel = MakeBzImage(8192, 4 * kMiB, 2 * kMiB);
  kernel.resize(kernel.size() - 8);
  UseKernel(kernel);
  // What an earlier run of the guest left there.
  ASSERT_TRUE(memory_->Fill(GuestAddress(4 * kMiB), 0xee, 0x3000).ok());
  Load();
  EXPECT_THAT(Bytes(4 * kMiB, 8184), Each(0xc0));
  EXPECT_THAT(Bytes(4 * kMiB + 8184, 8), Each(0));
  EXPECT_THAT(Bytes(4 * kMiB + 8192, 16), Each(0xee)) << "after the code";
}

TEST_F(BootLoaderTest, ElfWithBrokenNotesIsEnteredAtItsOwnEntry) {
  UseKernel(MakeElf(MakeXenNote(kPvhNote, 0x42)));
  const BootEntry entry = Load();
  EXPECT_EQ(entry.protocol, BootProtocol::kElf64);
  EXPECT_EQ(entry.rip, kMiB + 0x10);
  EXPECT_EQ(entry.rsi, kZeroPageAddress.value());
}

TEST_F(BootLoaderTest, PageTablesMapFourGiBOntoThemselvesForUserModeToo) {
  UseKernel(MakeElf());
  const BootEntry entry = Load();
  for (uint64_t address : {uint64_t{0}, 2 * kMiB, 3 * kGiB + 123 * kMiB, 4 * kGiB - 1}) {
    constexpr uint64_t kFlags = 7;  // present, writable, user
    const auto pml4e = Get<uint64_t>(entry.cr3 + 8 * (address >> 39));
    ASSERT_EQ(pml4e & 0xfff, kFlags);
    const auto pdpte = Get<uint64_t>((pml4e & ~uint64_t{0xfff}) + 8 * ((address >> 30) & 511));
    ASSERT_EQ(pdpte & 0xfff, kFlags);
    const auto pde = Get<uint64_t>((pdpte & ~uint64_t{0xfff}) + 8 * ((address >> 21) & 511));
    EXPECT_EQ(pde, (address & ~(2 * kMiB - 1)) | kFlags | 0x80);
  }
}

TEST_F(BootLoaderTest, GdtHoldsTheSegmentsThatAreLoaded) {
  UseKernel(MakeElf());
  const BootEntry entry = Load();
  EXPECT_EQ(entry.gdt.limit, 47);
  EXPECT_EQ(Get<uint64_t>(entry.gdt.base), 0u);
  EXPECT_EQ(Get<uint64_t>(entry.gdt.base + entry.cs.selector), 0x00af'9b00'0000'ffffu);
  EXPECT_EQ(Get<uint64_t>(entry.gdt.base + entry.data.selector), 0x00cf'9300'0000'ffffu);
  EXPECT_EQ(Get<uint64_t>(entry.gdt.base + entry.tr.selector), 0x0000'8b00'0000'0067u);
  EXPECT_FALSE(entry.ldt.present);
}

TEST_F(BootLoaderTest, ElfIsEnteredLikeLinuxWithAHeaderOfOurs) {
  UseKernel(MakeElf());
  // What an earlier run of the guest left where the bss is to be.
  ASSERT_TRUE(memory_->Fill(GuestAddress(kMiB), 0xee, 0x400).ok());
  options_.command_line = "count";
  const BootEntry entry = Load();
  EXPECT_EQ(entry.protocol, BootProtocol::kElf64);
  EXPECT_EQ(entry.rip, kMiB + 0x10);
  EXPECT_THAT(Bytes(kMiB, 0x100), Each(0xc0));
  EXPECT_THAT(Bytes(kMiB + 0x100, 0x100), Each(0)) << "bss";
  EXPECT_THAT(Bytes(kMiB + 0x200, 0x100), Each(0xee)) << "after the segment";
  EXPECT_EQ(Get<uint16_t>(entry.rsi + 0x1fe), 0xaa55);
  EXPECT_EQ(Get<uint32_t>(entry.rsi + 0x202), 0x5372'6448u);
  EXPECT_EQ(Text(Get<uint32_t>(entry.rsi + 0x228)), "count");
}

TEST_F(BootLoaderTest, PvhIsEnteredIn32BitsWithStartInfo) {
  UseKernel(MakeElf(MakeXenNote(kPvhNote, kMiB + 0x20)));
  initrd_path_ = File("initrd", std::vector<uint8_t>(5000, 0x11));
  options_.command_line = "console=ttyS0";
  const BootEntry entry = Load();
  EXPECT_EQ(entry.protocol, BootProtocol::kPvh);
  EXPECT_EQ(entry.rip, kMiB + 0x20);
  EXPECT_EQ(entry.cr0 & 0x8000'0001, 1u);
  EXPECT_EQ(entry.cr4, 0u);
  EXPECT_EQ(entry.efer, 0u);
  EXPECT_TRUE(entry.cs.default_32bit);
  EXPECT_FALSE(entry.cs.long_mode);
  EXPECT_EQ(entry.tr.limit, 0x67u);

  const uint64_t info = entry.rbx;
  EXPECT_EQ(Get<uint32_t>(info), 0x336e'c578u);
  EXPECT_EQ(Get<uint32_t>(info + 4), 1u);
  EXPECT_EQ(Get<uint32_t>(info + 12), 1u) << "modules";
  const auto module = Get<uint64_t>(info + 16);
  EXPECT_EQ(Get<uint64_t>(module + 8), 5000u);
  EXPECT_THAT(Bytes(Get<uint64_t>(module), 5000), Each(0x11));
  EXPECT_EQ(Text(Get<uint64_t>(info + 24)), "console=ttyS0");
  EXPECT_EQ(Get<uint64_t>(info + 32), 0xe'0000u);
  const auto map = Get<uint64_t>(info + 40);
  ASSERT_EQ(Get<uint32_t>(info + 48), 3u);
  EXPECT_EQ(Get<uint64_t>(map + 24), 0x9'fc00u);
  EXPECT_EQ(Get<uint32_t>(map + 24 + 16), 2u);
}

TEST_F(BootLoaderTest, CodeAtTheResetVectorWritesTheResetRegister) {
  UseKernel(MakeElf());
  options_.platform.reset_port = 0x602;
  options_.platform.reset_value = 0x42;
  Load();
  EXPECT_EQ(Bytes(0xf'fff0, 6), (std::vector<uint8_t>{0xba, 0x02, 0x06, 0xb0, 0x42, 0xee}));
}

TEST_F(BootLoaderTest, E820TellsOfHoleAndHighMemory) {
  SetMemory(5 * kGiB);
  UseKernel(MakeBzImage());
  const BootEntry entry = Load();
  struct [[gnu::packed]] Entry {
    uint64_t address;
    uint64_t bytes;
    uint32_t type;
  };
  ASSERT_EQ(Get<uint8_t>(entry.rsi + 0x1e8), 4);
  const uint64_t expected[4][3] = {
      {0, 0x9'fc00, 1}, {0x9'fc00, 0x6'0400, 2}, {kMiB, 3 * kGiB - kMiB, 1}, {4 * kGiB, 2 * kGiB, 1}};
  for (int i = 0; i < 4; ++i) {
    const auto e820 = Get<Entry>(entry.rsi + 0x2d0 + 20 * i);
    EXPECT_EQ(uint64_t{e820.address}, expected[i][0]) << i;
    EXPECT_EQ(uint64_t{e820.bytes}, expected[i][1]) << i;
    EXPECT_EQ(uint32_t{e820.type}, expected[i][2]) << i;
  }
}

TEST_F(BootLoaderTest, InitrdLiesAtTheTopOfLowMemory) {
  UseKernel(MakeBzImage());
  initrd_path_ = File("initrd", std::vector<uint8_t>(5000, 0x11));
  const BootEntry entry = Load();
  EXPECT_EQ(Get<uint32_t>(entry.rsi + 0x218), 16 * kMiB - 8192);
  EXPECT_EQ(Get<uint32_t>(entry.rsi + 0x21c), 5000u);
  EXPECT_THAT(Bytes(16 * kMiB - 8192, 5000), Each(0x11));
}

TEST_F(BootLoaderTest, InitrdStaysBelowWhatTheKernelCanReach) {
  std::vector<uint8_t> kernel = MakeBzImage();
  PutAt<uint32_t>(kernel, 0x22c, 8 * kMiB - 1);
  UseKernel(kernel);
  initrd_path_ = File("initrd", std::vector<uint8_t>(4096, 0x11));
  EXPECT_EQ(Get<uint32_t>(Load().rsi + 0x218), 8 * kMiB - 4096);
}

TEST_F(BootLoaderTest, InitrdThatWouldTouchTheKernelDoesNotFit) {
  UseKernel(MakeBzImage(4096, kMiB, 14 * kMiB));  // leaves 1 MiB
  initrd_path_ = File("initrd", std::vector<uint8_t>(kMiB));
  EXPECT_EQ(Get<uint32_t>(Load().rsi + 0x218), 15 * kMiB);
  initrd_path_ = File("initrd-2", std::vector<uint8_t>(kMiB + 1));
  EXPECT_THAT(Error(), HasSubstr("initrd " + initrd_path_ + " does not fit: it has 1.0 MiB"));
  EXPECT_THAT(Error(), HasSubstr("give the machine more memory"));
}

TEST_F(BootLoaderTest, MoreMemoryIsAdvisedOnlyWhereItWouldHelp) {
  std::vector<uint8_t> kernel = MakeBzImage(4096, kMiB, 14 * kMiB);
  PutAt<uint32_t>(kernel, 0x22c, 16 * kMiB - 1 - kPageBytes);  // the kernel's own limit
  UseKernel(kernel);
  initrd_path_ = File("initrd", std::vector<uint8_t>(kMiB));
  EXPECT_THAT(Error(), HasSubstr("whatever memory the machine has; use a smaller one"));
  // Low memory can be no larger than this.
  SetMemory(uint64_t{4} << 30);
  UseKernel(MakeBzImage(4096, kMiB, 14 * kMiB));
  const std::string sparse = File("large", {0});
  std::filesystem::resize_file(sparse, uint64_t{3} << 30);
  initrd_path_ = sparse;
  EXPECT_THAT(Error(), HasSubstr("whatever memory the machine has; use a smaller one"));
}

TEST_F(BootLoaderTest, KernelThatNeedsMoreMemoryDoesNotFit) {
  UseKernel(MakeBzImage(4096, 8 * kMiB, 8 * kMiB));
  Load();
  UseKernel(MakeBzImage(4096, 8 * kMiB, 8 * kMiB + 1));
  EXPECT_EQ(Try().status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Error(), HasSubstr("does not fit: it takes memory up to 16.0 MiB, the machine has 16.0 MiB"));
}

TEST_F(BootLoaderTest, ElfThatNeedsMoreMemoryDoesNotFit) {
  std::vector<uint8_t> kernel = MakeElf();
  PutAt<uint64_t>(kernel, kFirstHeaderOffset + 40, uint64_t{1} << 40);
  UseKernel(kernel);
  EXPECT_THAT(Error(), HasSubstr("does not fit"));
}

TEST_F(BootLoaderTest, MachineOfOneMiBIsTooSmall) {
  SetMemory(kMiB);
  UseKernel(MakeElf());
  EXPECT_THAT(Error(), HasSubstr("more than 1 MiB of memory"));
}

TEST_F(BootLoaderTest, CommandLineHasTheKernelsLimit) {
  UseKernel(MakeBzImage());
  options_.command_line = std::string(2047, 'x');
  Load();
  options_.command_line += 'x';
  EXPECT_THAT(Error(), HasSubstr("command line is too long: 2048 bytes, this kernel takes 2047"));
}

TEST_F(BootLoaderTest, CommandLineNeverLeavesItsRoom) {
  std::vector<uint8_t> kernel = MakeBzImage();
  PutAt<uint32_t>(kernel, 0x238, UINT32_MAX);
  UseKernel(kernel);
  options_.command_line = std::string(kCommandLineRoomBytes, 'x');
  EXPECT_THAT(Error(), HasSubstr("too long"));
}

TEST_F(BootLoaderTest, CommandLineWithAZeroByteIsRefused) {
  UseKernel(MakeBzImage());
  options_.command_line = std::string("a\0b", 3);
  EXPECT_THAT(Error(), HasSubstr("zero byte"));
}

TEST_F(BootLoaderTest, WrongFilesAreNamedWithTheReason) {
  kernel_path_ = directory_ + "/none";
  EXPECT_EQ(Try().status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Error(), HasSubstr(directory_ + "/none: No such file or directory"));
  kernel_path_ = directory_;
  EXPECT_EQ(Error(), "kernel " + directory_ + " is a directory");
  kernel_path_ = File("empty", {});
  EXPECT_EQ(Error(), "kernel " + kernel_path_ + " is empty");
  kernel_path_ = "/dev/null";
  EXPECT_EQ(Error(), "kernel /dev/null is not a regular file");
  kernel_path_ = File("text", std::vector<uint8_t>(4096, 'x'));
  EXPECT_EQ(Error(), "kernel " + kernel_path_ + " is neither a bzImage nor an ELF kernel");

  UseKernel(MakeBzImage());
  initrd_path_ = directory_;
  EXPECT_EQ(Error(), "initrd " + directory_ + " is a directory");
  initrd_path_ = File("empty-initrd", {});
  EXPECT_THAT(Error(), EndsWith("is empty"));
}

TEST_F(BootLoaderTest, FifoIsRefusedWithoutWaitingForAWriter) {
  const std::string path = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  files_.push_back(path);
  kernel_path_ = path;
  EXPECT_THAT(Error(), EndsWith("is not a regular file"));
}

TEST_F(BootLoaderTest, UnreadableFileIsRefused) {
  if (geteuid() == 0) {
    GTEST_SKIP() << "root may read everything";
  }
  UseKernel(MakeBzImage());
  ASSERT_EQ(chmod(kernel_path_.c_str(), 0), 0);
  EXPECT_THAT(Error(), HasSubstr("Permission denied"));
}

TEST_F(BootLoaderTest, LoadingAgainGivesTheSame) {
  UseKernel(MakeElf());
  options_.command_line = "a long command line";
  Load();
  const std::vector<uint8_t> first = Bytes(0x1000, 2 * kMiB);
  ASSERT_TRUE(memory_->Fill(kZeroPageAddress, 0xff, kPageBytes).ok());
  ASSERT_TRUE(memory_->Fill(kPageTablesAddress, 0xff, kPageBytes).ok());
  ASSERT_TRUE(memory_->Fill(kAcpiTablesStart, 0xff, 64).ok());
  Load();
  EXPECT_EQ(Bytes(0x1000, 2 * kMiB), first);
}

// As a reset does: by name, what is there now would be loaded.
TEST_F(BootLoaderTest, WhatIsPutInThePlaceOfTheFilesIsNotLoaded) {
  UseKernel(MakeBzImage());
  initrd_path_ = File("initrd", std::vector<uint8_t>(5000, 0x11));
  const BootEntry first = Load();
  const uint64_t initrd = Get<uint32_t>(first.rsi + 0x218);
  pinned_ = true;
  const std::string secret = File("secret", std::vector<uint8_t>(5000, 0x77));
  ASSERT_EQ(unlink(initrd_path_.c_str()), 0);
  ASSERT_EQ(symlink(secret.c_str(), initrd_path_.c_str()), 0);
  ASSERT_EQ(rename(File("no-kernel", std::vector<uint8_t>(5000)).c_str(), kernel_path_.c_str()), 0);
  ASSERT_TRUE(memory_->Fill(GuestAddress(initrd), 0, 5000).ok());
  EXPECT_EQ(Load().rip, first.rip);
  EXPECT_THAT(Bytes(initrd, 5000), Each(0x11));
}

TEST_F(BootLoaderTest, LookTouchesNoMemoryAndWhatWasLookedAtIsLoaded) {
  const std::vector<uint8_t> image = MakeBzImage(8192, 4 * kMiB, 2 * kMiB);
  UseKernel(image);
  initrd_path_ = File("initrd", std::vector<uint8_t>(5000, 7));
  Load();
  const std::vector<uint8_t> kernel = Bytes(4 * kMiB, 4096);
  SetMemory(16 * kMiB);
  const auto boot = PreparedBoot::Prepare(*memory_, options_);
  ASSERT_TRUE(boot.ok()) << boot.status();
  EXPECT_TRUE(boot->TryToRead().ok());
  EXPECT_EQ(memory_->regions()[0]->ResidentBytes().value(), 0u);
  // Neither name nor mode is asked for again.
  for (const std::string& path : {kernel_path_, initrd_path_}) {
    chmod(path.c_str(), 0);
    unlink(path.c_str());
  }
  const auto entry = boot->Load(*memory_);
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(Bytes(4 * kMiB, 4096), kernel);
  EXPECT_EQ(Bytes(16 * kMiB - 8192, 5000), std::vector<uint8_t>(5000, 7));
}

TEST_F(BootLoaderTest, FileThatIsCutAfterTheLookIsNamed) {
  UseKernel(MakeBzImage(8192, 4 * kMiB, 2 * kMiB));
  initrd_path_ = File("initrd", std::vector<uint8_t>(500'000, 7));
  Load();
  const auto boot = PreparedBoot::Prepare(*memory_, options_);
  ASSERT_TRUE(boot.ok()) << boot.status();
  ASSERT_EQ(truncate(initrd_path_.c_str(), 300'000), 0);
  for (const absl::Status& status : {boot->TryToRead(), boot->Load(*memory_).status()}) {
    EXPECT_EQ(status.message(), "initrd " + initrd_path_ + " became shorter while it was read");
  }
}

// The owner of a file may write to it, wherever its name leads.
TEST_F(BootLoaderTest, OtherContentThanTheFilesHaveToHaveIsNotBooted) {
  const std::vector<uint8_t> kernel = MakeBzImage();
  const std::vector<uint8_t> initrd(5000, 0x11);
  const auto content = [](const std::vector<uint8_t>& bytes) {
    return BootFile::Content{.bytes = bytes.size(), .sha256 = Sha256Of(bytes)};
  };
  UseKernel(kernel);
  initrd_path_ = File("initrd", initrd);
  const uint64_t at_initrd = Get<uint32_t>(Load().rsi + 0x218);
  pinned_ = true;
  kernel_->content = content(kernel);
  initrd_->content = content(initrd);
  Load();
  const std::string why = " has other content now than when the machine came here with it, so that it is not booted";
  std::vector<uint8_t> other = kernel;
  other.back() ^= 1;
  File("kernel", other);
  EXPECT_EQ(Error(), "kernel " + kernel_path_ + why);
  other.resize(other.size() + 16);
  File("kernel", other);
  EXPECT_EQ(Error(), "kernel " + kernel_path_ + why);
  File("kernel", kernel);
  Load();
  for (const size_t bytes : {4999, 5000, 5001}) {
    File("initrd", std::vector<uint8_t>(bytes, 0x12));
    EXPECT_EQ(Error(), "initrd " + initrd_path_ + why);
    EXPECT_THAT(Bytes(at_initrd, 5000), Each(0x11)) << "the guest's memory may be on its way to somebody";
  }
  File("initrd", initrd);
  Load();
}

}  // namespace
}  // namespace ferrite
