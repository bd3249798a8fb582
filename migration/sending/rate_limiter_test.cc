#include "migration/sending/rate_limiter.h"

#include <gtest/gtest.h>

#include "base/monotonic.h"

namespace ferrite::migration {
namespace {

TEST(RateLimiterTest, HoldsTheRateInVirtualTime) {
  RateLimiter limiter(1'000'000);
  MonotonicTime now = MonotonicTime() + absl::Hours(1);
  const MonotonicTime start = now;
  for (int i = 0; i < 1000; ++i) {
    now += limiter.Take(4096, now);
  }
  // 4 MB at 1 MB/s, less the first 50 ms.
  EXPECT_NEAR(absl::ToDoubleSeconds(now - start), 4.096 - 0.05, 0.02);
}

TEST(RateLimiterTest, ForgetsWhatWasNotUsed) {
  RateLimiter limiter(1'000'000);
  MonotonicTime now = MonotonicTime();
  (void)limiter.Take(4096, now);
  now += absl::Hours(1);
  absl::Duration waited;
  for (int i = 0; i < 100; ++i) {
    const absl::Duration wait = limiter.Take(10'000, now);
    now += wait;
    waited += wait;
  }
  EXPECT_GT(waited, absl::Milliseconds(900));
}

TEST(RateLimiterTest, TakesWhatWasSentInTheEnd) {
  RateLimiter limiter(1'000'000);
  const MonotonicTime now = MonotonicTime();
  (void)limiter.Take(1'000'000, now);
  limiter.Correct(-900'000);
  EXPECT_LE(limiter.Take(1, now), absl::Milliseconds(100));
  limiter.Correct(900'000);
  EXPECT_GT(limiter.Take(1, now), absl::Milliseconds(900));
}

TEST(RateLimiterTest, TriesOnlyWhatNeedsNoWaiting) {
  RateLimiter limiter(1'000'000);
  const MonotonicTime now = MonotonicTime();
  EXPECT_TRUE(limiter.TryTake(200'000, now));
  EXPECT_FALSE(limiter.TryTake(1, now));
  EXPECT_NEAR(absl::ToDoubleSeconds(limiter.DelayAt(now)), 0.15, 0.001);
  EXPECT_EQ(limiter.DelayAt(now + absl::Milliseconds(200)), absl::ZeroDuration());
  EXPECT_TRUE(limiter.TryTake(1, now + absl::Milliseconds(200)));
  limiter.SetRate(0);
  EXPECT_EQ(limiter.DelayAt(now), absl::ZeroDuration());
  EXPECT_TRUE(limiter.TryTake(uint64_t{1} << 60, now));
  EXPECT_TRUE(limiter.TryTake(1, now));
}

TEST(RateLimiterTest, NoLimitNeverWaits) {
  RateLimiter limiter(0);
  EXPECT_EQ(limiter.Take(uint64_t{1} << 60, MonotonicTime()), absl::ZeroDuration());
  limiter.SetRate(1);
  (void)limiter.Take(10, MonotonicTime());
  EXPECT_GT(limiter.Take(1, MonotonicTime()), absl::ZeroDuration());
}

}  // namespace
}  // namespace ferrite::migration
