// MoveOptions::count_channels: the rounds go over as many page channels as help, by what is measured on the way.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  ASSERT_NO_FATAL_FAILURE(ExpectOneRunner(move, result, 1000));
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  EXPECT_TRUE(result.report.counted_channels);
}

MoveOptions Counted(MoveMode mode) {
  return {.mode = mode, .downtime_limit = absl::Seconds(5), .channels = 4, .count_channels = true};
}

// A link on which each connection has its share.
TEST(CountedChannelsTest, MoreAreUsedWhereEachHelps) {
  FakeMove* made = nullptr;
  FakeMove move({.relay = true, .wrap = [&made](PairRendezvous place) {
                   made->relay().SlowTo(12 * kMiB);
                   return place;
                 }});
  made = &move;
  const FakeMoveResult result = move.Move(Counted(MoveMode::kPrecopy));
  ExpectArrived(move, result);
  EXPECT_GE(result.report.channels, 2u);
  EXPECT_EQ(result.report.open_channels, 4u);
  ASSERT_GE(result.report.channel_rates.size(), 2u);
  EXPECT_GT(result.report.channel_rates[1], result.report.channel_rates[0]);
}

// One fills it: here it is the limit that does.
TEST(CountedChannelsTest, OneIsUsedWhereMoreBringNothing) {
  FakeMove move({.bytes = 64 * kMiB});
  MoveOptions options = Counted(MoveMode::kPrecopy);
  options.max_bandwidth = 24 * kMiB;
  const FakeMoveResult result = move.Move(options);
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.channels, 1u);
  EXPECT_EQ(result.report.channel_rates.size(), 2u);
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
