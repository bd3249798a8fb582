// A balloon that a guest drives: the host's memory really shrinks, and the guest's other memory stays as it is.

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "tests/fakes/test_place.h"
#include "tests/integration/payload_machine.h"
#include "vmm/machine/balloon_port.h"
#include "vmm/machine/movable_machine.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kFilled = 32 * kMiB;

class BalloonTest : public testing::TestWithParam<MemoryBacking> {
 protected:
  void Start(std::string command_line, uint64_t balloon_bytes, uint64_t memory_bytes = 128 * kMiB) {
    MachineConfig config;
    config.memory_bytes = memory_bytes;
    config.memory_backing = GetParam();
    config.transparent_huge_pages = thp_;
    config.command_line = std::move(command_line);
    config.devices = {BalloonConfig{.bytes = balloon_bytes}};
    auto run = PayloadMachine::Run("virtio", std::move(config));
    ASSERT_TRUE(run.ok()) << run.status();
    machine_ = *std::move(run);
    ASSERT_NE(machine_->machine().balloon(), nullptr);
  }

  uint64_t Resident() {
    const auto bytes = ResidentBytes(machine_->memory());
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : 0;
  }

  // Sets the target and waits until the guest says that it is there.
  void SetTarget(uint64_t bytes) {
    ASSERT_TRUE(machine_->machine().balloon()->SetTarget(bytes).ok());
    for (;;) {
      const auto line = machine_->WaitFor("balloon");
      ASSERT_TRUE(line.ok()) << line.status();
      if (line->Number("actual") == bytes / kPageBytes) {
        return;
      }
    }
  }

  bool thp_ = true;
  std::unique_ptr<PayloadMachine> machine_;
};

TEST_P(BalloonTest, HostMemoryShrinksAndComesBack) {
  Start("fill=32M", 0);
  ASSERT_TRUE(machine_->WaitFor("ready").ok());
  const uint64_t full = Resident();
  EXPECT_GT(full, kFilled);
  SetTarget(kFilled / 2);
  EXPECT_LE(Resident(), full - kFilled / 2 + kMiB);
  EXPECT_EQ(machine_->machine().balloon()->Figures().actual_bytes, kFilled / 2);
  SetTarget(kFilled);
  EXPECT_LE(Resident(), full - kFilled + kMiB);
  // Most of it back: the guest fills what it gets.
  SetTarget(kFilled / 4);
  EXPECT_GE(Resident(), full - kFilled / 4 - kMiB);
  const auto half = machine_->Check();
  EXPECT_TRUE(half.ok()) << half.status();
  SetTarget(0);
  EXPECT_GE(Resident(), full - kMiB);
  const auto check = machine_->Check();
  EXPECT_TRUE(check.ok()) << check.status();
}

TEST_P(BalloonTest, TargetAtStartIsReached) {
  Start("fill=32M", kFilled / 2);
  const auto line = machine_->WaitFor("balloon");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->Number("actual"), kFilled / 2 / kPageBytes);
  const auto check = machine_->Check();
  EXPECT_TRUE(check.ok()) << check.status();
}

TEST_P(BalloonTest, ReportedFreePagesGoBackToTheHost) {
  // A page that is touched again would bring back its neighbours.
  thp_ = false;
  Start("fill=8M report_free=32M", 0);
  ASSERT_TRUE(machine_->WaitFor("ready").ok());
  ASSERT_TRUE(machine_->WaitFor("touched").ok());
  ASSERT_TRUE(machine_->WaitFor("reported").ok());
  // What the guest touched again, one page of every report, is all that is left of them.
  EXPECT_LT(Resident(), 8 * kMiB + 8 * kMiB);
  EXPECT_GE(machine_->machine().balloon()->Figures().reclaimed_bytes, 32 * kMiB);
  const auto check = machine_->Check();
  EXPECT_TRUE(check.ok()) << check.status();
}

// A quarter of a million calls to the kernel wait in the queue at any time; a pass over it does some hundred.
TEST_P(BalloonTest, AGuestThatScattersItsPagesHoldsUpNeitherAPauseNorTheFigures) {
  const absl::Duration limit = ForPlace(absl::Seconds(1), absl::Seconds(15));
  Start("fill=0 scatter=32768", 0, 640 * kMiB);
  ASSERT_TRUE(machine_->WaitFor("virtio").ok());
  Machine& machine = machine_->machine();
  for (int round = 0; round < 5; ++round) {
    const uint64_t reclaimed = machine.balloon()->Figures().reclaimed_bytes;
    const MonotonicTime start = MonotonicTime::Now();
    ASSERT_TRUE(machine.balloon()->SetTarget(round * kMiB).ok());
    EXPECT_EQ(machine.balloon()->Figures().target_bytes, round * kMiB);
    const MonotonicTime told = MonotonicTime::Now();
    EXPECT_LT(told - start, limit);
    ASSERT_TRUE(machine.Pause().ok());
    EXPECT_LT(MonotonicTime::Now() - told, limit);
    ASSERT_TRUE(machine.Resume().ok());
    // It is at it again.
    ASSERT_TRUE(machine_->WaitFor("virtio").ok());
    while (machine.balloon()->Figures().reclaimed_bytes == reclaimed) {
      ASSERT_TRUE(machine_->WaitFor("virtio").ok());
    }
  }
}

TEST_P(BalloonTest, StatisticsComeFromTheGuest) {
  Start("fill=8M", 0);
  ASSERT_TRUE(machine_->WaitFor("virtio").ok());
  ASSERT_TRUE(machine_->machine().balloon()->RequestStatistics().ok());
  // The guest answers within a turn of its loop.
  for (int i = 0; i < 100 && machine_->machine().balloon()->Figures().statistics.empty(); ++i) {
    ASSERT_TRUE(machine_->WaitFor("virtio").ok());
  }
  const auto statistics = machine_->machine().balloon()->Figures().statistics;
  ASSERT_EQ(statistics.size(), 2u);
  EXPECT_EQ(statistics[0].first, "free_memory");
  EXPECT_GT(statistics[0].second, 100 * kMiB);
}

TEST_P(BalloonTest, InhibitedBalloonGivesNothingBackUntilReleased) {
  Start("fill=32M", 0);
  ASSERT_TRUE(machine_->WaitFor("ready").ok());
  const uint64_t full = Resident();
  auto token = machine_->machine().moving().InhibitBalloon("test");
  ASSERT_TRUE(machine_->machine().balloon()->SetTarget(kFilled).ok());
  for (int i = 0; i < 5; ++i) {
    const auto line = machine_->WaitFor("virtio");
    ASSERT_TRUE(line.ok()) << line.status();
    EXPECT_EQ(line->Number("balloon_pages"), 0u);
  }
  EXPECT_GE(Resident(), full - kMiB);
  token.Release();
  const auto line = machine_->WaitFor("balloon");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->Number("actual"), kFilled / kPageBytes);
  EXPECT_LE(Resident(), full - kFilled + kMiB);
}

INSTANTIATE_TEST_SUITE_P(All, BalloonTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const testing::TestParamInfo<MemoryBacking>& info) {
                           return std::string(MemoryBackingName(info.param));
                         });

}  // namespace
}  // namespace ferrite
