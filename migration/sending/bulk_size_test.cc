#include "migration/sending/bulk_size.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "absl/time/time.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {
namespace {

TEST(BulkSizeTest, GrowsWhereNobodyWaits) {
  FakeClock clock;
  BulkSize size(clock, 4);
  EXPECT_LT(size.pages(), BulkSize::kMost);
  for (int i = 0; i < 12; ++i) {
    size.Sent(BulkSize::kAim, 0);
    clock.Advance(2 * BulkSize::kAim);
  }
  EXPECT_EQ(size.pages(), BulkSize::kMost);
}

TEST(BulkSizeTest, IsHalvedAtMost) {
  FakeClock clock;
  BulkSize size(clock, 4);
  const uint64_t first = size.pages();
  size.Sent(1.25 * BulkSize::kAim, 0);
  EXPECT_EQ(size.pages(), first * 4 / 5);
  BulkSize other(clock, 4);
  other.Sent(absl::Seconds(100), 0);
  EXPECT_EQ(other.pages(), first / 2);
}

// What is told now is of what went a while ago.
TEST(BulkSizeTest, ChangesAgainWhenWhatGoesNowIsMeasured) {
  FakeClock clock;
  BulkSize size(clock, 4);
  for (int channel = 0; channel < 8; ++channel) {
    size.Sent(absl::Milliseconds(20), 0);
  }
  EXPECT_EQ(size.pages(), BulkSize::kFirst / 2);
  clock.Advance(BulkSize::kAim + absl::Milliseconds(20));
  size.Sent(absl::Milliseconds(20), 0);
  EXPECT_EQ(size.pages(), BulkSize::kFirst / 4);
}

TEST(BulkSizeTest, NeverLessThanTheLeastAndGrowsFromThere) {
  FakeClock clock;
  BulkSize size(clock, 4);
  for (int i = 0; i < 10; ++i) {
    size.Sent(absl::Milliseconds(5), 0);
    clock.Advance(absl::Milliseconds(6));
    ASSERT_GE(size.pages(), BulkSize::kLeast);
  }
  EXPECT_EQ(size.pages(), BulkSize::kLeast);
  for (int i = 0; i < 30; ++i) {
    size.Sent(absl::ZeroDuration(), 0);
    clock.Advance(BulkSize::kAim);
  }
  EXPECT_EQ(size.pages(), BulkSize::kMost);
}

// How fast small claims go is not measured with what the rounds sent, at whatever speed that went.
TEST(BulkSizeTest, WhatWentBeforeTheFirstClaimIsNotMeasured) {
  FakeClock clock;
  BulkSize size(clock, 1);
  clock.Advance(absl::Seconds(10));
  constexpr uint64_t kRounds = uint64_t{1} << 40;
  constexpr uint64_t kClaim = 1 << 20;
  uint64_t bytes = kRounds;
  // Small ones carry half of what large ones do.
  while (size.pages() != BulkSize::kMost) {
    size.Sent(absl::Milliseconds(20), bytes += kClaim);
    clock.Advance(absl::Milliseconds(20));
  }
  for (const MonotonicTime end = clock.Now() + absl::Seconds(1); clock.Now() < end;) {
    size.Sent(absl::Milliseconds(20), bytes += 2 * kClaim);
    clock.Advance(absl::Milliseconds(20));
  }
  EXPECT_EQ(size.pages(), BulkSize::kMost) << "large claims were found worth it";
}

// Channels that share what carries their claims one after the other; of each there are two at a time.
class Sharing {
 public:
  Sharing(uint64_t channels, absl::Duration each, double bytes_per_second)
      : channels_(channels), each_(each), bytes_per_second_(bytes_per_second), size_(clock_, channels) {}

  absl::Duration Takes(uint64_t pages) const {
    return each_ + absl::Seconds(static_cast<double>(pages) * 4096 / bytes_per_second_);
  }
  double RateOf(uint64_t pages) const {
    return static_cast<double>(pages) * 4096 / absl::ToDoubleSeconds(Takes(pages));
  }

  // Sends until `time` has passed.
  void Run(absl::Duration time, double line_left = 1) {
    for (absl::Duration passed; passed < time;) {
      const uint64_t pages = size_.pages();
      const absl::Duration took = Takes(pages) / line_left;
      clock_.Advance(took);
      passed += took;
      bytes_ += pages * 4096;
      // As TCP smooths it.
      delay_ = delay_ * 0.875 + took * static_cast<int64_t>(2 * channels_) * 0.125;
      late_ += delay_ > kLate ? took : absl::ZeroDuration();
      size_.Sent(delay_, bytes_);
    }
  }
  // Since the last call.
  uint64_t TakeBytes() { return bytes_ - std::exchange(taken_bytes_, bytes_); }
  // How long what went waited for longer than was aimed at.
  absl::Duration TakeLate() { return std::exchange(late_, absl::ZeroDuration()); }
  uint64_t pages() const { return size_.pages(); }

 private:
  static constexpr absl::Duration kLate = absl::Milliseconds(4);

  const uint64_t channels_;
  const absl::Duration each_;
  const double bytes_per_second_;
  FakeClock clock_;
  BulkSize size_;
  absl::Duration delay_;
  uint64_t bytes_ = 0;
  uint64_t taken_bytes_ = 0;
  absl::Duration late_;
};

constexpr double kGigabit = 1e9 / 8;

TEST(BulkSizeTest, LineHasAboutAsMuchAsIsAimedAt) {
  for (const double gigabits : {1.0, 10.0}) {
    for (const uint64_t channels : {1, 4, 8}) {
      SCOPED_TRACE(testing::Message() << channels << " at " << gigabits << " Gbit/s");
      Sharing line(channels, absl::ZeroDuration(), gigabits * kGigabit);
      line.Run(absl::Milliseconds(400));
      EXPECT_LE(line.TakeLate(), absl::Milliseconds(40));
      // Some trials of large claims, fewer and fewer.
      line.Run(absl::Seconds(10));
      EXPECT_LE(line.TakeLate(), absl::Seconds(1));
      line.Run(absl::Seconds(30));
      EXPECT_LE(line.TakeLate(), absl::Seconds(1));
    }
  }
}

TEST(BulkSizeTest, ClaimsAreLargeWhereSmallOnesCarryLess) {
  // A processor that takes a millisecond for each claim, however small.
  Sharing processor(4, absl::Milliseconds(1), 400e6);
  ASSERT_LT(processor.RateOf(BulkSize::kFirst), 0.3 * processor.RateOf(BulkSize::kMost));
  const double best = processor.RateOf(BulkSize::kMost);
  processor.Run(absl::Seconds(5));
  EXPECT_GT(static_cast<double>(processor.TakeBytes()), 0.8 * 5 * best);
  // Small ones are tried again, less and less often.
  processor.Run(absl::Seconds(60));
  EXPECT_GT(static_cast<double>(processor.TakeBytes()), 0.9 * 60 * best);
}

// Where no more than a quarter is to be gained, small claims stay.
TEST(BulkSizeTest, SmallOnesMayCostALittle) {
  Sharing line(8, absl::Microseconds(20), kGigabit);
  ASSERT_GT(line.RateOf(BulkSize::kLeast), 0.8 * line.RateOf(BulkSize::kMost));
  line.Run(absl::Seconds(30));
  EXPECT_LE(line.TakeLate(), absl::Seconds(1.5));
}

// A line that was found slow, and then is not.
TEST(BulkSizeTest, GrowsWhereTheQueueIsGone) {
  Sharing line(8, absl::ZeroDuration(), kGigabit);
  line.Run(absl::Milliseconds(400), 0.1);
  EXPECT_LT(line.pages(), BulkSize::kFirst);
  line.Run(absl::Milliseconds(400), 100);
  EXPECT_EQ(line.pages(), BulkSize::kMost);
}

}  // namespace
}  // namespace ferrite::migration
