// Mirrors of the disk of a machine on real KVM, whose guest writes it, reads it back and compares
// (tests/guest/virtio.cc).
#include "vmm/mirror/mirrors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/machine_harness.h"
#include "tests/fakes/waiting_mirrors.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disks.h"

namespace ferrite {
namespace {

using migration::CopyMode;
using migration::MirrorState;

constexpr uint64_t kImageBytes = uint64_t{4} << 20;
constexpr absl::Duration kPatience = absl::Seconds(60);

// The guest works on the first quarter of its disk all the time, in requests of 16 KiB.
class MirrorsTest : public testing::TestWithParam<CopyMode> {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-mirrors-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    root_ = directory_ + "/root.img";
    const Fd fd(open(root_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(fd.get(), kImageBytes), 0);
    const std::string behind(64 << 10, 'b');
    ASSERT_EQ(pwrite(fd.get(), behind.data(), behind.size(), kImageBytes / 2), static_cast<ssize_t>(behind.size()));
    MachineConfig config = MachineHarness::Config("virtio", "report_ms=10 fill=1M blk_span=1M blk_chunk=16384");
    config.devices = {DiskConfig{.id = "root", .path = root_}};
    machine_ = harness_.Create(config, &console_);
    mirrors_ = std::make_unique<WaitingMirrors>(machine_->disks(), [this](const MirrorStatus& mirror) {
      const absl::MutexLock lock(&mutex_);
      last_ = mirror;
    });
    ASSERT_EQ(machine_->Boot().ToString(), "OK");
    ASSERT_EQ(machine_->Resume().ToString(), "OK");
    ASSERT_TRUE(console_.Next("ready").has_value());
  }
  void TearDown() override {
    mirrors_.reset();
    machine_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string Path(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  void Begin(const std::string& target) {
    const auto number =
        mirrors_->Start({.disk = "root",
                         .target = target,
                         .options = {.granularity = 4096, .buffer_bytes = 1 << 20, .copy_mode = GetParam()}});
    ASSERT_TRUE(number.ok()) << number.status();
  }
  MirrorStatus Await(MirrorState state) {
    const absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return last_.figures.state == state; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience))
        << migration::MirrorStateName(last_.figures.state) << " " << last_.figures.cause;
    return last_;
  }
  // Until the guest has written, read back and compared its part of the disk `more` times.
  void AwaitRounds(uint64_t more) {
    console_.SkipLines();
    uint64_t first = 0;
    for (bool begun = false;; begun = true) {
      const std::optional<GuestLine> line = console_.Next("virtio", kPatience);
      ASSERT_TRUE(line.has_value()) << "the guest says nothing";
      ASSERT_EQ(line->Number("errors"), 0u) << line->text();
      if (!begun) {
        first = line->Number("blk_rounds");
      } else if (line->Number("blk_rounds") >= first + more) {
        return;
      }
    }
  }
  std::string DiskPath() { return machine_->disks().List()[0].path; }

  MachineHarness harness_;
  GuestConsole console_;
  std::string directory_;
  std::string root_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<WaitingMirrors> mirrors_;
  absl::Mutex mutex_;
  MirrorStatus last_ ABSL_GUARDED_BY(mutex_);
};

// From image to image: each is left as it was at its last instant.
TEST_P(MirrorsTest, GuestGoesFromImageToImage) {
  std::string before = root_;
  for (int i = 1; i <= 5; ++i) {
    const std::string target = Path(absl::StrCat(i, ".img"));
    Begin(target);
    Await(MirrorState::kReady);
    AwaitRounds(1);
    ASSERT_EQ(mirrors_->Complete("root").ToString(), "OK");
    const std::string old = FileContent(before);
    EXPECT_EQ(DiskPath(), target);
    AwaitRounds(2);
    EXPECT_TRUE(FileContent(before) == old) << before << " was written to";
    EXPECT_EQ(FileContent(target).substr(kImageBytes / 2), old.substr(kImageBytes / 2));
    before = target;
  }
}

TEST_P(MirrorsTest, CopyOfAPausedMachineIsItsDisk) {
  Begin(Path("copy.img"));
  Await(MirrorState::kReady);
  AwaitRounds(1);
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  ASSERT_EQ(mirrors_->Cancel("root", /*keep_copy=*/true).ToString(), "OK");
  EXPECT_TRUE(FileContent(Path("copy.img")) == FileContent(root_));
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  AwaitRounds(1);
  EXPECT_EQ(DiskPath(), root_);
}

// What a pause, a reset and a stop mean for one that is on.
TEST_P(MirrorsTest, GoesOnOverPauseAndResetAndEndsWithTheMachine) {
  Begin(Path("new.img"));
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  Await(MirrorState::kReady);
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  AwaitRounds(2);
  ASSERT_EQ(machine_->Pause().ToString(), "OK");
  Await(MirrorState::kReady);
  ASSERT_EQ(mirrors_->Complete("root").ToString(), "OK");
  EXPECT_TRUE(FileContent(Path("new.img")) == FileContent(root_));
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  AwaitRounds(1);
  ASSERT_EQ(machine_->Reset().ToString(), "OK");
  AwaitRounds(1);
  EXPECT_EQ(DiskPath(), Path("new.img"));

  Begin(Path("other.img"));
  machine_->Stop();
  EXPECT_FALSE(mirrors_->Complete("root").ok());
  mirrors_.reset();
  EXPECT_FALSE(std::filesystem::exists(Path("other.img")));
}

INSTANTIATE_TEST_SUITE_P(Mode, MirrorsTest, testing::Values(CopyMode::kBackground, CopyMode::kWriteBlocking),
                         [](const auto& mode) {
                           return mode.param == CopyMode::kBackground ? "Background" : "WriteBlocking";
                         });

}  // namespace
}  // namespace ferrite
