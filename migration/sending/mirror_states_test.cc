// States, and what may be asked for in which; limits of the rate, what is left to the guest, and figures.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

TEST(MirrorStatesTest, IsReadyOnceWhatIsLeftFits) {
  MirrorRig rig({.downtime_limit = absl::Milliseconds(4)}, 96 * kMiB);
  rig.Fill(0, 96 * kMiB);
  rig.Start();
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning);
  EXPECT_EQ(rig.figures().ready_after, absl::ZeroDuration());
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  // 16 MiB in 2 ms.
  EXPECT_LE(rig.figures().dirty_bytes + rig.figures().in_flight_bytes, 33 * kMiB);
  EXPECT_GE(rig.figures().dirty_bytes + rig.figures().in_flight_bytes, 16 * kMiB);
  EXPECT_EQ(rig.figures().ready_after, rig.figures().took);
  EXPECT_GT(rig.figures().ready_after, absl::ZeroDuration());
  // For good.
  rig.Settle();
  (void)rig.Write(0, 96 * kMiB);
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kReady);
  rig.Complete();
}

TEST(MirrorStatesTest, IsNotReadyBeforeItsRateIsKnown) {
  MirrorRig rig({.downtime_limit = absl::Hours(1)}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  rig.source.EndAll();
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning);
}

TEST(MirrorStatesTest, WaitingForTheRateLimitMakesNobodySlow) {
  MirrorRig rig({.max_bandwidth = 8 << 20}, 8 * kMiB);
  rig.Fill(0, 8 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  // As soon as the rate is one of half of the disk: the rest could be drained at once.
  EXPECT_LE(rig.figures().ready_after, absl::Milliseconds(600));
  rig.Complete();
}

TEST(MirrorStatesTest, RefusesWhatAStateDoesNotAllow) {
  MirrorRig rig({}, 32 * kMiB);
  rig.Fill(0, 32 * kMiB);
  rig.Start();
  const auto refused = [](const absl::Status& status) { return absl::IsFailedPrecondition(status); };
  EXPECT_TRUE(refused(rig.mirror->Drain()));
  EXPECT_EQ(rig.mirror->Drain().message(), "complete: the mirror is running");
  EXPECT_TRUE(refused(rig.mirror->WithdrawDrain()));
  EXPECT_TRUE(refused(rig.mirror->Resume()));
  EXPECT_TRUE(rig.mirror->Pause().ok());
  EXPECT_TRUE(refused(rig.mirror->Pause()));
  EXPECT_TRUE(refused(rig.mirror->Drain()));
  EXPECT_TRUE(rig.mirror->Resume().ok());
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  EXPECT_TRUE(rig.mirror->Drain().ok());
  EXPECT_TRUE(refused(rig.mirror->Drain()));
  EXPECT_TRUE(refused(rig.mirror->Pause()));
  EXPECT_TRUE(rig.mirror->WithdrawDrain().ok());
  EXPECT_EQ(rig.figures().state, MirrorState::kReady);
  EXPECT_TRUE(refused(rig.mirror->WithdrawDrain()));
  rig.Complete();
  EXPECT_TRUE(refused(rig.mirror->WithdrawDrain()));
  EXPECT_TRUE(refused(rig.mirror->Cancel()));
  EXPECT_TRUE(refused(rig.mirror->Pause()));
  EXPECT_TRUE(refused(rig.mirror->Resume()));
  EXPECT_EQ(rig.figures().state, MirrorState::kCompleted);
}

TEST(MirrorStatesTest, APauseStartsNothing) {
  MirrorRig rig({}, 32 * kMiB);
  rig.Fill(0, 32 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.mirror->Pause().ok());
  EXPECT_FALSE(rig.mirror->idle());
  rig.EndAll();
  rig.Turn();
  rig.Settle();
  EXPECT_TRUE(rig.mirror->idle());
  EXPECT_EQ(rig.target.submitted.size(), 0u) << "what was read is not written";
  EXPECT_EQ(rig.figures().dirty_bytes, 32 * kMiB);
  EXPECT_EQ(rig.figures().state, MirrorState::kPaused);
  (void)rig.Write(0, kMiB);
  rig.Turn();
  EXPECT_TRUE(rig.mirror->idle());
  ASSERT_TRUE(rig.mirror->Resume().ok());
  EXPECT_TRUE(rig.turn_soon);
  rig.Complete();
}

TEST(MirrorStatesTest, ReadyIsReachedAnewAfterAPause) {
  MirrorRig rig({.downtime_limit = absl::Milliseconds(1)}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  const absl::Duration ready_after = rig.figures().ready_after;
  ASSERT_TRUE(rig.mirror->Pause().ok());
  (void)rig.Write(0, 64 * kMiB);
  rig.EndAll();
  ASSERT_TRUE(rig.mirror->Resume().ok());
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning);
  rig.Complete();
  EXPECT_EQ(rig.figures().ready_after, ready_after) << "the first time";
}

TEST(MirrorStatesTest, ACancelLetsWhatIsInFlightEnd) {
  MirrorRig rig({}, 32 * kMiB);
  rig.Fill(0, 32 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.mirror->Cancel().ok());
  EXPECT_EQ(rig.figures().state, MirrorState::kCancelled);
  EXPECT_FALSE(rig.mirror->idle());
  rig.EndAll();
  EXPECT_TRUE(rig.mirror->idle());
  rig.Turn();
  EXPECT_TRUE(rig.mirror->idle());
  EXPECT_EQ(rig.target.submitted.size(), 0u);
}

TEST(MirrorStatesTest, ADrainCopiesWhatIsLeftWhateverTheLimit) {
  MirrorRig rig({.max_bandwidth = 64 << 20, .downtime_limit = absl::Seconds(10)}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  EXPECT_GT(rig.figures().dirty_bytes, 16 * kMiB);
  const MonotonicTime began = rig.now;
  rig.Complete();
  EXPECT_LE(rig.now - began, absl::Milliseconds(20));
}

TEST(MirrorStatesTest, AWriteDuringADrainIsCopiedAndFlushed) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  ASSERT_TRUE(rig.mirror->Drain().ok());
  rig.Turn();
  ASSERT_EQ(rig.target.in_flight(), 1u);
  EXPECT_EQ(rig.target.Operation(0).kind, Kind::kFlush);
  (void)rig.Write(kMiB, 512);
  rig.Turn();
  EXPECT_EQ(rig.source.in_flight(), 0u) << "it would not be flushed";
  ASSERT_TRUE(rig.RunUntil(MirrorState::kCompleted));
  EXPECT_EQ(rig.target.submitted[Kind::kFlush], 2u);
  rig.ExpectEqual();
}

TEST(MirrorStatesTest, ADrainThatIsWithdrawnGoesOn) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  ASSERT_TRUE(rig.mirror->Drain().ok());
  rig.Turn();
  ASSERT_TRUE(rig.mirror->WithdrawDrain().ok());
  (void)rig.Write(kMiB, 512);
  rig.EndAll();  // the flush
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kReady);
  rig.Complete();
  EXPECT_EQ(rig.target.submitted[Kind::kFlush], 2u);
}

TEST(MirrorStatesTest, HoldsTheRateAndChangesIt) {
  MirrorRig rig({.max_bandwidth = 4 << 20}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  const auto copied_in = [&](absl::Duration time) {
    const MonotonicTime end = rig.now + time;
    const uint64_t before = rig.figures().copied_bytes;
    EXPECT_TRUE(rig.RunUntil([&] { return rig.now >= end; }));
    return rig.figures().copied_bytes - before;
  };
  EXPECT_NEAR(static_cast<double>(copied_in(absl::Seconds(2))), 8.0 * kMiB, kMiB);
  EXPECT_NEAR(rig.figures().rate, 4.0 * kMiB, kMiB);
  EXPECT_LE(rig.source.longest, 4 * kMiB / 10 + kChunk) << "no lumps";
  rig.mirror->SetMaxBandwidth(16 << 20);
  EXPECT_TRUE(rig.turn_soon);
  rig.Turn();
  EXPECT_NEAR(static_cast<double>(copied_in(absl::Seconds(1))), 16.0 * kMiB, 2.0 * kMiB);
  rig.mirror->SetMaxBandwidth(0);
  const MonotonicTime began = rig.now;
  rig.Complete();
  EXPECT_LE(rig.now - began, absl::Milliseconds(50));
}

TEST(MirrorStatesTest, ZeroesCountForNothingOfTheRate) {
  MirrorRig rig({.max_bandwidth = 1 << 20}, 64 * kMiB);
  const std::vector<uint8_t> zeroes(64 * kMiB, 0);
  rig.source.content.Write(0, zeroes.data(), zeroes.size());
  rig.Start();
  const MonotonicTime began = rig.now;
  rig.Complete();
  EXPECT_LE(rig.now - began, absl::Seconds(1) * 3);
}

TEST(MirrorStatesTest, WritesOfOneChunkCostOneCopyInAWhile) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  const uint64_t before = rig.figures().again_bytes;
  const MonotonicTime end = rig.now + absl::Seconds(1);
  while (rig.now < end) {
    (void)rig.Write(kMiB, 4 * kKiB);
    rig.now += absl::Milliseconds(1);
    rig.Turn();
    rig.EndAll();
  }
  EXPECT_LE(rig.figures().again_bytes - before, 51 * kChunk);
  EXPECT_GE(rig.figures().again_bytes - before, 40 * kChunk);
  rig.Complete();
}

TEST(MirrorStatesTest, FiguresTellRates) {
  MirrorRig rig({}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  EXPECT_NEAR(rig.figures().rate, 64.0 * kMiB / absl::ToDoubleSeconds(rig.figures().took), kMiB);
  rig.now += absl::Seconds(2);
  EXPECT_EQ(rig.figures().rate, 0);
  EXPECT_EQ(rig.figures().dirty_rate, 0);
  (void)rig.Write(0, 4 * kMiB);
  rig.Turn();
  EXPECT_EQ(rig.figures().dirty_rate, 4.0 * kMiB);
}

TEST(MirrorStatesTest, AsksForOneTurnOnly) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Start();
  rig.Settle();
  rig.asks = 0;
  for (int i = 0; i < 100; ++i) {
    (void)rig.Write(static_cast<uint64_t>(i) * 512, 512);
  }
  EXPECT_EQ(rig.asks, 1);
  rig.Settle();
  rig.Complete();
}

// How often the disks have nothing of a mirror's, of so many operations, while there is still something to copy.
int TimesEmptied(bool guest_writes) {
  MirrorRig rig({}, 128 * kMiB);
  rig.Fill(0, 128 * kMiB);
  rig.Start();
  int emptied = 0;
  while (rig.figures().dirty_bytes > 8 * kMiB) {
    rig.now += absl::Milliseconds(1);
    // One after the other.
    FakeBlockIo& side = rig.target.ready() > 0 ? rig.target : rig.source;
    side.End(0);
    if (guest_writes) {
      (void)rig.Write(0, 4 * kKiB);
    }
    emptied += rig.source.in_flight() + rig.target.in_flight() == 0 ? 1 : 0;
    rig.Turn();
  }
  rig.Complete();
  return emptied;
}

// A scheduler that serves what follows on itself lets the guest's writes wait until then.
TEST(MirrorStatesTest, LeavesTheDisksToTheGuestNowAndThen) {
  EXPECT_GE(TimesEmptied(true), 128 / 16);
  EXPECT_LE(TimesEmptied(false), 2);
}

}  // namespace
}  // namespace ferrite::migration
