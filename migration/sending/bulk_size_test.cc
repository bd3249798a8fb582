#include "migration/sending/bulk_size.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

TEST(BulkSizeTest, GrowsWhereNobodyWaits) {
  BulkSize size;
  EXPECT_LT(size.pages(), BulkSize::kMost);
  for (int i = 0; i < 12; ++i) {
    size.Note(BulkSize::kAim);
  }
  EXPECT_EQ(size.pages(), BulkSize::kMost);
}

TEST(BulkSizeTest, IsHalvedAtMost) {
  BulkSize size;
  const uint64_t first = size.pages();
  size.Note(1.25 * BulkSize::kAim);
  EXPECT_EQ(size.pages(), first * 4 / 5);
  BulkSize other;
  other.Note(absl::Seconds(100));
  EXPECT_EQ(other.pages(), first / 2);
}

TEST(BulkSizeTest, NeverLessThanTheLeastAndGrowsFromThere) {
  BulkSize size;
  for (int i = 0; i < 100; ++i) {
    size.Note(absl::InfiniteDuration());
    ASSERT_GE(size.pages(), BulkSize::kLeast);
  }
  EXPECT_EQ(size.pages(), BulkSize::kLeast);
  for (int i = 0; i < 30; ++i) {
    size.Note(absl::ZeroDuration());
  }
  EXPECT_EQ(size.pages(), BulkSize::kMost);
}

// Channels that share a line, on which two claims of each are at a time, and of which each learns what there was a
// while ago.
absl::Duration DelayOf(size_t channels, double bytes_per_second) {
  std::vector<BulkSize> sizes(channels);
  absl::Duration delay, worst;
  for (int turn = 0; turn < 1000; ++turn) {
    double queued = 0;
    for (const BulkSize& size : sizes) {
      queued += 2.0 * static_cast<double>(size.pages()) * 4096;
    }
    // As TCP smooths it.
    delay = delay * 0.875 + absl::Seconds(queued / bytes_per_second) * 0.125;
    for (BulkSize& size : sizes) {
      size.Note(delay);
    }
    worst = turn >= 500 ? std::max(worst, delay) : worst;
  }
  return worst;
}

TEST(BulkSizeTest, SharedLineHasAboutAsMuchAsIsAimedAt) {
  for (const double gigabits : {1.0, 10.0, 40.0}) {
    for (const size_t channels : {1, 4, 8}) {
      SCOPED_TRACE(testing::Message() << channels << " at " << gigabits << " Gbit/s");
      const double rate = gigabits / 8 * 1e9;
      // The least ones of eight are more than what is aimed at on the slowest.
      const double least = 2.0 * static_cast<double>(channels * BulkSize::kLeast) * 4096 / rate;
      EXPECT_LE(DelayOf(channels, rate), 3 * std::max(BulkSize::kAim, absl::Seconds(least)));
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
