// How a disk that comes is written to its image; tests/migration/disk_move_test.cc moves one.
#include "vmm/move/disk_landing.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "devices/block/disk_image.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/short_directory.h"
#include "vmm/move/disk_part.h"

namespace ferrite {
namespace {

using migration::PageRun;
using ::testing::HasSubstr;

constexpr uint64_t kBytes = (uint64_t{1} << 20) + 512;
constexpr uint64_t kPages = ((uint64_t{1} << 20) + kDiskUnitBytes) / 4096;

class DiskLandingTest : public testing::Test {
 protected:
  void Open(bool existing = false) {
    auto target =
        OpenImageTarget({.where = path_, .existing = existing, .bytes = kBytes, .exact = true, .depth = 1}, *loop_);
    ASSERT_TRUE(target.ok()) << target.status();
    landing_ = std::make_unique<DiskLanding>("root", kBytes);
    landing_->Take(*std::move(target));
  }
  void MakeFile(char content) const {
    const Fd fd(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    const std::string bytes(kBytes, content);
    ASSERT_EQ(pwrite(fd.get(), bytes.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
  }
  void Fill(PageRun run, char content) {
    const std::string bytes(run.count * 4096, content);
    ASSERT_EQ(landing_->placer(0).Filled(run, reinterpret_cast<const uint8_t*>(bytes.data())).ToString(), "OK");
  }
  void Zero(PageRun run) { ASSERT_EQ(landing_->placer(0).FillZero(run).ToString(), "OK"); }
  bool Exists(absl::string_view suffix = "") const { return std::filesystem::exists(path_ + std::string(suffix)); }
  uint64_t Allocated() const {
    struct stat info = {};
    EXPECT_EQ(stat(path_.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }

  ShortDirectory directory_;
  const std::string path_ = directory_ / "root.img";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create("test-loop");
  std::unique_ptr<DiskLanding> landing_;
};

TEST_F(DiskLandingTest, BytesAreWhereTheyBelong) {
  Open();
  EXPECT_TRUE(Exists(".incomplete"));
  EXPECT_TRUE(landing_->mirrored());
  ASSERT_EQ(landing_->placer(0).pages(), kPages);
  EXPECT_EQ(landing_->placer(0).states().missing(), kPages / 16);
  Fill({.first = 1, .count = 2}, 'a');
  Fill({.first = 256, .count = 1}, 'z');  // 512 bytes of it are the disk's
  Zero({.first = 257, .count = 15});
  Zero({.first = 3, .count = 253});
  Zero({.first = 0, .count = 1});
  EXPECT_EQ(landing_->placer(0).states().missing(), 0u);
  EXPECT_EQ(landing_->Flush().ToString(), "OK");
  std::string expected(kBytes, '\0');
  expected.replace(4096, 8192, 8192, 'a');
  expected.replace(kBytes - 512, 512, 512, 'z');
  EXPECT_EQ(FileContent(path_), expected);
  EXPECT_LE(Allocated(), 2 * kDiskUnitBytes) << "holes stay holes";

  EXPECT_TRUE(Exists(".incomplete"));
  EXPECT_FALSE(DiskImage::Create(path_, false).ok()) << "it is locked";
  landing_->HandOver();
  const auto image = DiskImage::Create(path_, false);
  EXPECT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(landing_->Unmark().ToString(), "OK");
  EXPECT_FALSE(Exists(".incomplete"));
  landing_->Arrived();
  EXPECT_EQ(landing_->Settled().ToString(), "OK");
  landing_->Abandoned();
  landing_.reset();
  EXPECT_TRUE(Exists()) << "the guest runs on it";
}

TEST_F(DiskLandingTest, ZeroesComeOverWhatWasWritten) {
  Open();
  Fill({.first = 0, .count = 64}, 'a');
  Zero({.first = 1, .count = 40});
  std::string expected(kBytes, '\0');
  expected.replace(0, 4096, 4096, 'a');
  expected.replace(41 * 4096, 23 * 4096, 23 * 4096, 'a');
  EXPECT_EQ(FileContent(path_), expected);
}

TEST_F(DiskLandingTest, WhatWasThereIsWrittenOver) {
  MakeFile('x');
  Open(/*existing=*/true);
  Fill({.first = 0, .count = 1}, 'a');
  Zero({.first = 1, .count = kPages - 1});
  std::string expected(kBytes, '\0');
  expected.replace(0, 4096, 4096, 'a');
  EXPECT_EQ(FileContent(path_), expected);
  landing_->Abandoned();
  EXPECT_TRUE(Exists());
  EXPECT_TRUE(Exists(".incomplete")) << "nobody has it as it was";
}

TEST_F(DiskLandingTest, WhatWasThereIsAsItWasWhenNothingCame) {
  MakeFile('x');
  Open(/*existing=*/true);
  EXPECT_TRUE(Exists(".incomplete"));
  landing_->Abandoned();
  landing_.reset();
  EXPECT_FALSE(Exists(".incomplete"));
  EXPECT_EQ(FileContent(path_), std::string(kBytes, 'x'));
}

// GRANT came, and the machine could not take it: the guest is the source's.
TEST_F(DiskLandingTest, OneThatWasUnmarkedAndDoesNotRunLeavesNothing) {
  Open();
  Fill({.first = 0, .count = 1}, 'a');
  landing_->HandOver();
  EXPECT_EQ(landing_->Unmark().ToString(), "OK");
  landing_.reset();
  EXPECT_FALSE(Exists());
  EXPECT_FALSE(Exists(".incomplete"));
}

TEST_F(DiskLandingTest, EmptyFileIsEmptyAgainWhenNothingCame) {
  ASSERT_EQ(close(creat(path_.c_str(), 0600)), 0);
  Open(/*existing=*/true);
  EXPECT_EQ(std::filesystem::file_size(path_), kBytes);
  landing_.reset();
  EXPECT_EQ(std::filesystem::file_size(path_), 0u);
  EXPECT_FALSE(Exists(".incomplete"));
}

TEST_F(DiskLandingTest, AbandonedOneLeavesNothing) {
  Open();
  Fill({.first = 0, .count = 1}, 'a');
  landing_->Abandoned();
  landing_->Abandoned();
  EXPECT_FALSE(Exists());
  EXPECT_FALSE(Exists(".incomplete"));
}

TEST_F(DiskLandingTest, OtherRegionIsRefused) {
  Open();
  const auto refusal = [this](const migration::MachineSpec::Region& region) {
    return std::string(landing_->Check(std::span(&region, 1)).message());
  };
  EXPECT_EQ(refusal(DiskRegion("root", kBytes)), "");
  EXPECT_THAT(refusal(DiskRegion("root", kBytes + kDiskUnitBytes)), HasSubstr("disk root comes with 1179648 bytes"));
  migration::MachineSpec::Region odd = DiskRegion("root", kBytes);
  odd.page_bytes = 4096;
  EXPECT_THAT(refusal(odd), HasSubstr("in units of 4096"));
}

// Nothing behind the switchover is believed (R1): the guest may run on the image.
TEST_F(DiskLandingTest, WhatComesAfterwardsChangesNothing) {
  Open();
  Fill({.first = 0, .count = kPages}, 'a');
  migration::Placer& placer = landing_->placer(0);
  EXPECT_EQ(placer.Claim({.first = 0, .count = 16}).run.count, 0u);
  EXPECT_EQ(*placer.PublishZero({.first = 0, .count = kPages}, migration::Showing::kAtOnce), 0u);
  EXPECT_EQ(FileContent(path_), std::string(kBytes, 'a'));
}

TEST_F(DiskLandingTest, FullDiskIsAnErrorThatNamesTheDiskAndNoPath) {
  Open();
  // Files of this process end at 64 KiB.
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {.rlim_cur = 65536, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string bytes(4096, 'a');
  const absl::Status status =
      landing_->placer(0).Filled({.first = 32, .count = 1}, reinterpret_cast<const uint8_t*>(bytes.data()));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(status.ToString(),
              HasSubstr("disk root: write 4096 bytes at 131072 of its image at the destination: File too large"));
  EXPECT_EQ(landing_->placer(0).states().missing(), kPages / 16) << "it has not come";
}

}  // namespace
}  // namespace ferrite
