#include "migration/sending/mirror_rates.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite::migration {
namespace {

const MonotonicTime kStart = MonotonicTime() + absl::Hours(1);

TEST(MirrorRatesTest, NothingIsKnownOfNothing) {
  const MirrorRates rates;
  EXPECT_EQ(rates.copied(kStart), 0);
  EXPECT_EQ(rates.possible(), 0);
}

TEST(MirrorRatesTest, AreOfTheLastSecond) {
  for (const absl::Duration each : {absl::Microseconds(100), absl::Milliseconds(3), absl::Milliseconds(70)}) {
    MirrorRates rates;
    MirrorRates::Totals totals;
    MonotonicTime now = kStart;
    rates.Note(totals, now);
    const auto pass = [&](absl::Duration time, double copied, double dirtied) {
      for (const MonotonicTime end = now + time; now < end;) {
        now += each;
        totals.copied += static_cast<uint64_t>(copied * absl::ToDoubleSeconds(each));
        totals.dirtied += static_cast<uint64_t>(dirtied * absl::ToDoubleSeconds(each));
        rates.Note(totals, now);
      }
    };
    pass(absl::Milliseconds(200), 1e8, 5e6);
    EXPECT_NEAR(rates.copied(now), 1e8, 1e6) << "since the start";
    pass(absl::Seconds(5), 1e8, 5e6);
    EXPECT_NEAR(rates.copied(now), 1e8, 1e7);
    EXPECT_NEAR(rates.dirtied(now), 5e6, 5e5);
    pass(absl::Seconds(1.2), 1e9, 0);
    EXPECT_NEAR(rates.copied(now), 1e9, 1e8);
    EXPECT_EQ(rates.dirtied(now), 0);
    // Nobody tells of anything: nothing came.
    EXPECT_NEAR(rates.copied(now + absl::Milliseconds(500)), 5e8, 1e8);
    EXPECT_EQ(rates.copied(now + absl::Milliseconds(1100)), 0);
  }
}

TEST(MirrorRatesTest, WhatComesAfterAGapIsOfNow) {
  MirrorRates rates;
  rates.Note({}, kStart);
  rates.Note({.copied = 1000}, kStart + absl::Hours(1));
  EXPECT_EQ(rates.copied(kStart + absl::Hours(1)), 1000);
}

TEST(MirrorRatesTest, WhatIsPossibleDoesNotCountWaiting) {
  MirrorRates rates;
  MirrorRates::Totals totals;
  MonotonicTime now = kStart;
  rates.Note(totals, now);
  // 1 MB in 10 ms, ten times a second, and zeroes that cost nothing.
  for (int i = 0; i < 30; ++i) {
    now += absl::Milliseconds(100);
    totals.copied += 5'000'000;
    totals.data += 1'000'000;
    totals.busy += absl::Milliseconds(10);
    rates.Note(totals, now);
  }
  EXPECT_NEAR(rates.possible(), 1e8, 1e6);
  EXPECT_NEAR(rates.copied(now), 5e7, 5e6);
  // It stays what it was while nothing is copied.
  now += absl::Hours(1);
  rates.Note(totals, now);
  EXPECT_NEAR(rates.possible(), 1e8, 1e6);
}

TEST(MirrorRatesTest, NoTimeAtAllIsNoInfiniteRate) {
  MirrorRates rates;
  rates.Note({}, kStart);
  rates.Note({.copied = 100, .data = 100}, kStart);
  EXPECT_LE(rates.copied(kStart), 100e6 + 1);
  EXPECT_LE(rates.possible(), 100e6 + 1);
}

}  // namespace
}  // namespace ferrite::migration
