#include "base/log_backoff.h"

#include <gtest/gtest.h>

#include "base/monotonic.h"

namespace ferrite {
namespace {

TEST(LogBackoffTest, LinesBecomeRarer) {
  LogBackoff backoff;
  const MonotonicTime start = MonotonicTime();
  EXPECT_EQ(backoff.Count(start), 0u);
  EXPECT_EQ(backoff.Count(start + absl::Milliseconds(1)), std::nullopt);
  EXPECT_EQ(backoff.Count(start + absl::Milliseconds(999)), std::nullopt);
  EXPECT_EQ(backoff.Count(start + absl::Seconds(1)), 2u);
  EXPECT_EQ(backoff.Count(start + absl::Seconds(2)), std::nullopt);
  EXPECT_EQ(backoff.Count(start + absl::Seconds(3)), 1u);
}

TEST(LogBackoffTest, WhatGoesOnForEverIsLoggedOnceAnHour) {
  LogBackoff backoff;
  int lines = 0;
  const MonotonicTime start = MonotonicTime();
  for (absl::Duration after; after < absl::Hours(24); after += absl::Milliseconds(100)) {
    lines += backoff.Count(start + after).has_value() ? 1 : 0;
  }
  // Twelve pauses make the first hour and a bit.
  EXPECT_GE(lines, 24 + 10);
  EXPECT_LE(lines, 24 + 14);
}

}  // namespace
}  // namespace ferrite
