// A disk of a machine that moves with it, as vmm/move has it at both ends: its image there is the one here, byte for
// byte, at the instant when the guest stood still (R1); no KVM at all.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/thread.h"
#include "devices/block/disk_image.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "tests/fakes/fake_disks.h"
#include "tests/fakes/short_directory.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"
#include "vmm/mirror/image_target.h"
#include "vmm/move/disk_landing.h"
#include "vmm/move/disk_part.h"

namespace ferrite::migration {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBytes = (uint64_t{24} << 20) + 512;  // no whole pages
constexpr absl::Duration kAnyRest = absl::Seconds(5);

struct DiskSetup {
  uint64_t bytes = kBytes;
  bool existing = false;  // a file of that size is there already, with something else in it
};

void MakeSparse(const std::string& path, uint64_t bytes) {
  const Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
}

// A machine with memory and the disk "root". In the first kBytes of it a part has data, and a part zeroes that were
// written; the guest writes to all of these.
class DiskMove {
 public:
  explicit DiskMove(FakeMoveSetup setup = {}, DiskSetup disk = {}) : move_(Small(std::move(setup))) {
    MakeSparse(here_, disk.bytes);
    if (disk.existing) {
      MakeSparse(there_, disk.bytes);
      const Fd fd(open(there_.c_str(), O_RDWR | O_CLOEXEC));
      const std::string other(kBytes, '\xee');
      EXPECT_EQ(pwrite(fd.get(), other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    }
    const Fd fd(open(here_.c_str(), O_RDWR | O_CLOEXEC));
    std::string data(kBytes / 4, '\0');
    for (size_t i = 0; i < data.size() / 2; ++i) {
      data[i] = static_cast<char>(1 + i % 251);
    }
    EXPECT_EQ(pwrite(fd.get(), data.data(), data.size(), kBytes / 3 / 4096 * 4096), static_cast<ssize_t>(data.size()));
    disks_ = std::make_unique<FakeDisks>(*DiskImage::Create(here_, /*read_only=*/false));
    part_ = std::make_unique<DiskPart>(*disks_, disks_->List()[0]);
    move_.port().parts = {part_.get()};
    move_.port().on_pause = [this] { StopWriter(); };
    move_.port().on_resume = [this] {
      StopWriter();
      StartWriter();
    };
    move_.destination().on_parts = [this, disk] {
      // That of the move before has its image still.
      landing_.reset();
      auto target = OpenImageTarget(
          {.where = there_, .existing = disk.existing, .bytes = disk.bytes, .exact = true, .depth = 1}, *loop_);
      EXPECT_TRUE(target.ok()) << target.status();
      landing_ = std::make_unique<DiskLanding>("root", disk.bytes);
      landing_->Take(*std::move(target));
      return std::vector<IncomingPart*>{landing_.get()};
    };
    move_.destination().on_run = [this] {
      EXPECT_EQ(landing_->Unmark().ToString(), "OK");
      landing_->Arrived();
      EXPECT_EQ(landing_->Settled().ToString(), "OK");
      ran_there_ = true;
    };
  }
  ~DiskMove() { StopWriter(); }

  void StartWriter() {
    stop_ = false;
    writer_ = StartOrDie("writer", [this] {
      for (uint64_t count = 0; !stop_; ++count) {
        const uint64_t bytes = uint64_t{512} << random_() % 4;
        const uint64_t offset = random_() % ((kBytes - bytes) / 512 + 1) * 512;
        const std::string data(bytes, count % 4 == 0 ? '\0' : static_cast<char>('a' + count % 26));
        EXPECT_EQ(disks_->Write(offset, data).ToString(), "OK");
        ++writes_;
        for (int turn = 0; rests && turn < 64; ++turn) {
          std::this_thread::yield();
        }
      }
    });
  }
  void StopWriter() {
    stop_ = true;
    writer_.Join();
  }
  FakeMoveResult Move(const MoveOptions& options,
                      const std::function<void(Source&, const MoveProgress&)>& during = nullptr) {
    move_.EndSession();
    return move_.Move(options, during);
  }
  // The first `bytes` of its disk are there.
  void ExpectMoved(const FakeMoveResult& result, uint64_t bytes = kBytes) {
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    EXPECT_TRUE(ran_there_);
    EXPECT_TRUE(Content(here_, bytes) == Content(there_, bytes)) << "R1";
    EXPECT_FALSE(std::filesystem::exists(there_ + ".incomplete"));
    EXPECT_FALSE(disks_->has_witness());
    ExpectGuestGoesOn(*move_.destination().guest(), 100);
  }
  void ExpectStayed(const FakeMoveResult& result) {
    EXPECT_FALSE(result.source.ok());
    EXPECT_FALSE(ran_there_);
    EXPECT_FALSE(std::filesystem::exists(there_)) << "R3";
    EXPECT_FALSE(std::filesystem::exists(there_ + ".incomplete")) << "R3";
    EXPECT_FALSE(disks_->has_witness());
    const uint64_t before = writes_;
    while (writes_ < before + 100) {
      std::this_thread::yield();
    }
  }

  FakeMove& move() { return move_; }
  FakeDisks& disks() { return *disks_; }
  const std::string& here() const { return here_; }
  const std::string& there() const { return there_; }

  std::atomic<bool> rests{true};

 private:
  static std::string Content(const std::string& path, uint64_t bytes) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string content(bytes, '\0');
    EXPECT_EQ(pread(fd.get(), content.data(), bytes, 0), static_cast<ssize_t>(bytes)) << path;
    return content;
  }
  static FakeMoveSetup Small(FakeMoveSetup setup) {
    setup.bytes = uint64_t{16} << 20;
    setup.work = {.first_page = 256, .pages = 1024, .random = true};
    return setup;
  }

  ShortDirectory directory_;
  const std::string here_ = directory_ / "here.img";
  const std::string there_ = directory_ / "there.img";
  std::unique_ptr<EventLoop> loop_ = *EventLoop::Create("test-loop");
  std::unique_ptr<FakeDisks> disks_;
  std::unique_ptr<DiskPart> part_;
  std::unique_ptr<DiskLanding> landing_;
  bool ran_there_ = false;
  std::mt19937_64 random_{1};
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> writes_{0};
  Thread writer_;
  FakeMove move_;
};

class EachDiskMoveTest : public testing::TestWithParam<std::tuple<MoveMode, int>> {};

TEST_P(EachDiskMoveTest, ImageIsTheSameWhileItIsWritten) {
  const auto& [mode, channels] = GetParam();
  DiskMove disk;
  disk.StartWriter();
  const FakeMoveResult result = disk.Move({.mode = mode, .downtime_limit = kAnyRest, .channels = channels});
  disk.ExpectMoved(result);
  ASSERT_EQ(result.report.parts.size(), 1u);
  EXPECT_EQ(result.report.parts[0].name, "disk root");
  EXPECT_GE(result.report.parts[0].zero_bytes, kBytes / 2);
}

TEST_P(EachDiskMoveTest, IdleImageStaysSparse) {
  const auto& [mode, channels] = GetParam();
  DiskMove disk;
  const FakeMoveResult result = disk.Move({.mode = mode, .downtime_limit = kAnyRest, .channels = channels});
  disk.ExpectMoved(result);
  struct stat info = {};
  ASSERT_EQ(stat(disk.there().c_str(), &info), 0);
  EXPECT_LE(static_cast<uint64_t>(info.st_blocks) * 512, kBytes / 8 + (128 << 10)) << "written zeroes are holes, too";
  EXPECT_LE(result.report.parts.at(0).data_bytes, kBytes / 8 + 8192);
  EXPECT_EQ(result.report.parts.at(0).again_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(All, EachDiskMoveTest,
                         testing::Combine(testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto),
                                          testing::Values(1, 3)),
                         [](const auto& info) {
                           const MoveMode mode = std::get<0>(info.param);
                           return absl::StrCat(mode == MoveMode::kAuto      ? "Auto"
                                               : mode == MoveMode::kPrecopy ? "Precopy"
                                                                            : "Postcopy",
                                               std::get<1>(info.param));
                         });

// Holes that were told are written meanwhile, and told again where that may not have arrived.
TEST(DiskMoveTest, ImageIsTheSameWhereverTheCopyIsCut) {
  for (const bool existing : {false, true}) {
    for (const uint64_t bytes : {1, 200, 4000, 60000, 500000, 2 << 20}) {
      SCOPED_TRACE(absl::StrCat(bytes, existing ? " existing" : ""));
      DiskMove disk({.relay = true}, {.existing = existing});
      disk.StartWriter();
      bool begun = false;
      const FakeMoveResult result =
          disk.Move({.mode = MoveMode::kPrecopy, .downtime_limit = kAnyRest, .max_bandwidth = 64 << 20, .channels = 3},
                    [&](Source&, const MoveProgress& progress) {
                      if (progress.state == MoveState::kActive && !std::exchange(begun, true)) {
                        disk.move().relay().CutAfter(bytes);
                      }
                    });
      disk.ExpectMoved(result);
      EXPECT_EQ(result.report.recoveries, 1u);
    }
  }
}

// It is written faster than it is copied, until who writes to it waits.
TEST(DiskMoveTest, WritesWaitWhereCopyingDoesNotConverge) {
  DiskMove disk;
  disk.rests = false;
  disk.StartWriter();
  const FakeMoveResult result = disk.Move(
      {.mode = MoveMode::kPrecopy, .downtime_limit = absl::Milliseconds(5), .max_bandwidth = uint64_t{32} << 20});
  disk.ExpectMoved(result);
  EXPECT_TRUE(result.report.parts.at(0).write_blocking);
  EXPECT_GT(disk.disks().held_writes(), 0u);
}

TEST(DiskMoveTest, CancelLeavesNothingThereAndASecondMoveWorks) {
  DiskMove disk;
  disk.StartWriter();
  bool cancelled = false;
  const FakeMoveResult first = disk.Move({.max_bandwidth = 8 << 20}, [&](Source& source, const MoveProgress& progress) {
    if (!cancelled && progress.state == MoveState::kActive && progress.parts.at(0).data_bytes > 0) {
      cancelled = source.Cancel().ok();
    }
  });
  EXPECT_TRUE(cancelled);
  disk.ExpectStayed(first);
  disk.ExpectMoved(disk.Move({.downtime_limit = kAnyRest}));
}

TEST(DiskMoveTest, ImageThatEndsEarlyFailsTheMoveAlone) {
  DiskMove disk;
  ASSERT_EQ(truncate(disk.here().c_str(), kBytes / 2), 0);
  const FakeMoveResult result = disk.Move({.downtime_limit = kAnyRest});
  EXPECT_THAT(result.source.ToString(), HasSubstr("disk root: read "));
  EXPECT_THAT(result.source.ToString(), HasSubstr("the image ends before"));
  ASSERT_EQ(truncate(disk.here().c_str(), kBytes), 0);
  disk.StartWriter();
  disk.ExpectStayed(result);
}

// What a disk has to say is no lost connection, whose other side is looked for: whatever the errno is, the move ends at
// once, with the disk's name.
TEST(DiskMoveTest, WriteThatFailsThereEndsTheMoveAtOnce) {
  constexpr uint64_t kMost = uint64_t{20} << 20;
  DiskMove disk({}, {.existing = true});
  ASSERT_EQ(disk.disks().Write(kMost + 65536, std::string(4096, 'x')).ToString(), "OK");
  // Files of this process end there: memory is less than that.
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {.rlim_cur = kMost, .rlim_max = before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const FakeMoveResult result = disk.Move({.recover_for = absl::Minutes(1)});
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  for (const absl::Status& status : {result.source, result.destination}) {
    EXPECT_THAT(status.ToString(), HasSubstr("disk root: write "));
    EXPECT_THAT(status.ToString(), HasSubstr("of its image at the destination: File too large"));
  }
  EXPECT_EQ(result.report.recoveries, 0u);
  EXPECT_LT(result.report.total, absl::Seconds(30));
  EXPECT_TRUE(std::filesystem::exists(disk.there() + ".incomplete"));
  ASSERT_TRUE(std::filesystem::remove(disk.there() + ".incomplete"));
  disk.StartWriter();
  disk.ExpectMoved(disk.Move({.downtime_limit = kAnyRest}));
}

// What a disk costs is its data, and what is written to it meanwhile: of its size no more than a look at its pages'
// bits, some seconds without optimization. Were it a look for each of the pieces in which a hole is told, the time
// would be over.
TEST(DiskMoveTest, HolesOfALargeImageCostNothing) {
  constexpr uint64_t kLarge = uint64_t{200} << 30;
  DiskMove disk({}, {.bytes = kLarge});
  disk.StartWriter();
  const FakeMoveResult result =
      disk.Move({.mode = MoveMode::kPrecopy, .downtime_limit = kAnyRest, .channels = 2, .timeout = absl::Seconds(60)});
  disk.StopWriter();
  disk.ExpectMoved(result);
  const PartFigures& root = result.report.parts.at(0);
  EXPECT_EQ(root.bytes, kLarge);
  EXPECT_LE(root.data_bytes, kBytes + root.again_bytes);
  EXPECT_GE(root.zero_bytes, kLarge - kBytes);
  // Memory has 16 MiB, and is written, too.
  EXPECT_LE(result.report.bytes, kBytes + 2 * root.again_bytes + (uint64_t{128} << 20));
  struct stat info = {};
  ASSERT_EQ(stat(disk.there().c_str(), &info), 0);
  EXPECT_EQ(static_cast<uint64_t>(info.st_size), kLarge);
  EXPECT_LE(static_cast<uint64_t>(info.st_blocks) * 512, kBytes + (1 << 20));
}

}  // namespace
}  // namespace ferrite::migration
