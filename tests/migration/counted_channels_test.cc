// MoveOptions::count_channels: the rounds go over as many page channels as help, by what is measured on the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_NO_FATAL_FAILURE(migration::ExpectArrived(move, result, /*steps=*/1000));
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  EXPECT_TRUE(result.report.counted_channels);
  const std::vector<uint64_t>& rates = result.report.channel_rates;
  if (result.report.channels < rates.size()) {
    EXPECT_EQ(result.report.channels, rates.size() - 1) << "the last one was taken back";
    EXPECT_LT(static_cast<double>(rates.back()), 1.11 * static_cast<double>(rates[rates.size() - 2]));
  } else {
    EXPECT_EQ(result.report.channels, std::min<size_t>(rates.size() + 1, result.report.open_channels));
  }
}

MoveOptions Counted(MoveMode mode) {
  return {.mode = mode, .downtime_limit = absl::Seconds(5), .channels = 4, .count_channels = true};
}

// How much that is, the link and the processors say; what goes over which is in //migration/sending:used_channels_test.
TEST(CountedChannelsTest, WhatIsMeasuredOnTheWayDecides) {
  FakeMove* made = nullptr;
  FakeMove move({.relay = true, .wrap = [&made](PairRendezvous place) {
                   made->relay().SlowTo(12 * kMiB);
                   return place;
                 }});
  made = &move;
  const FakeMoveResult result = move.Move(Counted(MoveMode::kPrecopy));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.open_channels, 4u);
  EXPECT_FALSE(result.report.channel_rates.empty());
}

// Nothing was measured: one brings the rest, and those that are open take over what it loses (docs/move.md).
TEST(CountedChannelsTest, OpenOnesAreThereWhenTheUsedOneBreaks) {
  FakeMove move({.relay = true});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] { move.relay().CutConnection(/*number=*/1); });
  };
  MoveOptions options = Counted(MoveMode::kPostcopy);
  options.max_postcopy_bandwidth = 64 * kMiB;
  const FakeMoveResult result = move.Move(options);
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.channels, 1u);
  EXPECT_EQ(result.report.recoveries, 0u);
  EXPECT_EQ(result.report.broken_channels, 1u);
}

TEST(CountedChannelsTest, EachModeMoves) {
  for (const MoveMode mode : {MoveMode::kAuto, MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    FakeMove move({});
    const FakeMoveResult result = move.Move(Counted(mode));
    ExpectArrived(move, result);
    EXPECT_LE(result.report.channels, 4u);
  }
}

}  // namespace
}  // namespace ferrite::migration
