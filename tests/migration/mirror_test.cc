// Blocks that are mirrored: they are whole when the guest is handed over, in every mode (R1, R3). The users of both
// parts prove them: each of their steps checks what it finds.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/remedy.h"
#include "tests/fakes/fake_blocks.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

constexpr MoveMode kPre = MoveMode::kPrecopy;
constexpr MoveMode kPost = MoveMode::kPostcopy;
constexpr MoveMode kAuto = MoveMode::kAuto;
constexpr uint64_t kBytes = FakeBlocks::kBlocks * 4096;
// Whatever is left fits it.
constexpr absl::Duration kAnyRest = absl::Seconds(5);
// All blocks take longer over any link here, and a few do not.
constexpr absl::Duration kNotTheBlocks = absl::Milliseconds(1);

std::unique_ptr<TwoParts> Mirrored(FakeMoveSetup setup = {}) {
  return std::make_unique<TwoParts>(std::move(setup), /*mirrored=*/true);
}

bool IsReady(const MoveProgress& progress) { return progress.parts.at(0).ready_after > absl::ZeroDuration(); }

void ExpectMovedWhole(TwoParts& parts, const FakeMoveResult& result) {
  parts.ExpectMoved(result);
  EXPECT_EQ(parts.there().waits(), 0u) << "nothing of it was missing";
  EXPECT_GE(parts.there().flushes(), 2) << "after each round, and at the end";
  EXPECT_TRUE(parts.there().flushed()) << "nothing came behind the last one";
  EXPECT_EQ(parts.there().abandoned(), 0);
}

void ExpectStayedAndNothingIsLeft(TwoParts& parts, const FakeMoveResult& result, absl::string_view why) {
  parts.ExpectStayed(result);
  EXPECT_NE(result.source.message().find(why), absl::string_view::npos) << result.source;
  EXPECT_GE(parts.there().abandoned(), 1) << "R3";
}

class EachMirrorTest : public testing::TestWithParam<std::tuple<MoveMode, bool, int>> {};

TEST_P(EachMirrorTest, BlocksAreWholeAndAccountedFor) {
  const auto& [mode, pair, channels] = GetParam();
  const auto parts = Mirrored({.pair = pair});
  std::atomic<bool> written = false;
  parts->here().on_send = [&] {
    if (!written.exchange(true)) {
      parts->here().AwaitVisits(100);  // while it is copied
    }
  };
  const FakeMoveResult result = parts->Move({.mode = mode, .downtime_limit = kAnyRest, .channels = channels});
  ExpectMovedWhole(*parts, result);
  if (mode != kAuto) {
    EXPECT_EQ(result.report.postcopy, mode == kPost);
  }
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  ASSERT_EQ(result.report.parts.size(), 1u);
  const PartFigures& blocks = result.report.parts[0];
  EXPECT_EQ(blocks.name, "blocks");
  EXPECT_EQ(blocks.bytes, kBytes);
  EXPECT_EQ(blocks.data_bytes + blocks.zero_bytes, kBytes + blocks.again_bytes) << "each once, but for what went again";
  EXPECT_GE(blocks.zero_bytes, (FakeBlocks::kBlocks - FakeBlocks::kWorkedOn) * 4096);
  EXPECT_GT(blocks.again_bytes, 0u) << "its user wrote meanwhile";
  EXPECT_GT(blocks.ready_after, absl::ZeroDuration());
  EXPECT_LT(blocks.ready_after, result.report.total);
  EXPECT_FALSE(blocks.write_blocking);
}

// Memory comes when the blocks are ready, and the guest does not pay for its writes to it before.
TEST_P(EachMirrorTest, NoPageOfMemoryLeavesBeforeTheBlocksAreReady) {
  const auto& [mode, pair, channels] = GetParam();
  const auto parts = Mirrored({.pair = pair});
  int before = 0;
  bool ready = false;
  const auto during = [&](Source& source, const MoveProgress& progress) {
    if (progress.state != MoveState::kActive || ready) {
      return;
    }
    ready = IsReady(progress);
    ++before;
    EXPECT_FALSE(parts->move().port().tracking);
    if (before > 1) {
      EXPECT_GE(progress.remaining_bytes, parts->move().memory().total_bytes()) << "all of memory is still to come";
    }
    const MoveReport report = source.report();
    const PartFigures& blocks = progress.parts.at(0);
    EXPECT_EQ((report.data_pages + report.zero_pages + report.skipped_pages) * 4096,
              blocks.data_bytes + blocks.zero_bytes);
    EXPECT_EQ(ready ? blocks.data_bytes + blocks.zero_bytes >= kBytes : true, true);
  };
  const FakeMoveResult result = parts->Move({.mode = mode, .downtime_limit = kAnyRest, .channels = channels}, during);
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(ready);
  EXPECT_GE(before, 2);
}

INSTANTIATE_TEST_SUITE_P(All, EachMirrorTest,
                         testing::Combine(testing::Values(kPre, kPost, kAuto), testing::Bool(), testing::Values(1, 3)),
                         [](const auto& info) {
                           return absl::StrCat(ModeName(std::get<0>(info.param)),
                                               std::get<1>(info.param) ? "Pair" : "Unix", std::get<2>(info.param));
                         });

// Blocks that both sides reach: the machine moves without them.
std::unique_ptr<TwoParts> Declined() {
  auto parts = Mirrored();
  parts->move().destination().declines_disks = true;
  parts->move().destination().on_parts = nullptr;
  parts->move().destination().on_load = nullptr;
  parts->move().destination().on_run = nullptr;
  return parts;
}

void ExpectMovedWithoutBlocks(TwoParts& parts, const FakeMoveResult& result) {
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  EXPECT_TRUE(parts.here().declined());
  EXPECT_EQ(parts.here().sends(), 0);
  ExpectGuestGoesOn(*parts.move().destination().guest(), 1000);
  ASSERT_EQ(result.report.parts.size(), 1u);
  EXPECT_TRUE(result.report.parts[0].shared);
  EXPECT_EQ(result.report.parts[0].data_bytes + result.report.parts[0].zero_bytes, 0u);
  EXPECT_EQ(result.report.parts[0].ready_after, absl::ZeroDuration());
}

TEST(MirrorTest, BlocksThatTheDestinationDeclinesAreLeftOut) {
  for (const MoveMode mode : {kPre, kPost, kAuto}) {
    const auto parts = Declined();
    const FakeMoveResult result = parts->Move({.mode = mode, .downtime_limit = kAnyRest});
    ExpectMovedWithoutBlocks(*parts, result);
  }
}

TEST(MirrorTest, BlocksThatAreToBeSharedAreNotOffered) {
  const auto parts = Declined();
  parts->move().destination().declines_disks = false;
  const FakeMoveResult result = parts->Move({.downtime_limit = kAnyRest, .disks = DiskMoves::kShared});
  ExpectMovedWithoutBlocks(*parts, result);
}

TEST(MirrorTest, BlocksThatMustBeCopiedEndTheMoveWhenTheyAreDeclined) {
  const auto parts = Declined();
  const FakeMoveResult result = parts->Move({.disks = DiskMoves::kMirror});
  parts->ExpectStayed(result);
  EXPECT_EQ(result.source.message(), "setup: blocks is to be copied, and the destination has named no place for that");
  EXPECT_EQ(RemedyOf(result.source), Remedy::kNameDiskCopy);
  EXPECT_EQ(parts->here().sends(), 0);
}

TEST(MirrorTest, BlocksThatMustBeCopiedAreTaken) {
  const auto parts = Mirrored();
  const FakeMoveResult result = parts->Move({.downtime_limit = kAnyRest, .disks = DiskMoves::kMirror});
  ExpectMovedWhole(*parts, result);
  EXPECT_FALSE(result.report.parts.at(0).shared);
}

// Memory stays behind where it does not converge; the blocks do not.
TEST(MirrorTest, MoveThatTurnsIntoPostcopyLeavesMemoryAloneBehind) {
  const auto parts = Mirrored();
  parts->move().port().restless = true;
  parts->here().Pause();
  const FakeMoveResult result = parts->Move({.mode = kAuto, .downtime_limit = absl::Microseconds(1)});
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(result.report.postcopy);
}

// What is written while memory is left behind is caught up with before the guest stands still.
TEST(MirrorTest, BlocksAreReadyWhenTheGuestStopsAndLeavesItsMemoryBehind) {
  const auto parts = Mirrored();
  parts->here().can_block = true;
  parts->here().Pause();
  const FakeMoveResult result =
      parts->Move({.mode = kPost, .downtime_limit = kNotTheBlocks}, [&](Source&, const MoveProgress& progress) {
        if (progress.state == MoveState::kActive && parts->move().port().tracking &&
            !parts->here().restless.exchange(true)) {
          EXPECT_FALSE(progress.parts.at(0).write_blocking);
          parts->here().Run();
        }
      });
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(result.report.parts.at(0).write_blocking);
  EXPECT_GT(parts->here().deliveries(), 0);
}

// However much goes before it in each round, memory has its part of each.
TEST(MirrorTest, BlocksThatAreWrittenAllTheTimeTakeNoTurnOfMemory) {
  const auto parts = Mirrored();
  parts->here().restless = true;
  std::optional<uint32_t> first;  // round of memory
  uint64_t sent = 0;              // of memory, in that one
  const FakeMoveResult result =
      parts->Move({.mode = kPre, .downtime_limit = kAnyRest, .timeout = absl::Seconds(30)},
                  [&](Source& source, const MoveProgress& progress) {
                    if (!parts->move().port().tracking) {
                      return;
                    }
                    first = first.value_or(progress.round);
                    if (progress.round == *first) {
                      const MoveReport report = source.report();
                      const PartFigures& blocks = progress.parts.at(0);
                      sent = report.data_pages + report.zero_pages - (blocks.data_bytes + blocks.zero_bytes) / 4096;
                    }
                  });
  ExpectMovedWhole(*parts, result);
  EXPECT_GE(sent, 512u) << "a part is 2 MiB, and the blocks are more";
}

TEST(MirrorTest, PostcopyThatIsAskedForEarlyWaitsForTheBlocks) {
  const auto parts = Mirrored();
  bool asked = false;
  const FakeMoveResult result = parts->Move({.mode = kPre, .downtime_limit = kAnyRest, .timeout = absl::ZeroDuration()},
                                            [&](Source& source, const MoveProgress& progress) {
                                              if (progress.state == MoveState::kActive && !std::exchange(asked, true)) {
                                                EXPECT_FALSE(IsReady(progress));
                                                EXPECT_TRUE(source.StartPostcopy().ok());
                                              }
                                            });
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(result.report.postcopy);
}

TEST(MirrorTest, TimeThatIsOverEarlyTurnsToPostcopyWhenTheBlocksAreReady) {
  const auto parts = Mirrored();
  const FakeMoveResult result = parts->Move(
      {.mode = kAuto, .downtime_limit = kAnyRest, .timeout = absl::ZeroDuration(), .on_timeout = OnTimeout::kPostcopy});
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(result.report.postcopy);
}

class NotReadyTest : public testing::TestWithParam<MoveMode> {};

// R3, and the rounds have an end.
TEST_P(NotReadyTest, BlocksThatAreWrittenTooFastEndTheMove) {
  const auto parts = Mirrored();
  parts->here().restless = true;
  bool tracked = false;
  const FakeMoveResult result =
      parts->Move({.mode = GetParam(), .downtime_limit = absl::Microseconds(200)},
                  [&](Source&, const MoveProgress&) { tracked = tracked || parts->move().port().tracking; });
  EXPECT_TRUE(absl::IsFailedPrecondition(result.source)) << result.source;
  ExpectStayedAndNothingIsLeft(*parts, result, "blocks is written faster than it can be copied: at");
  EXPECT_FALSE(tracked) << "memory had no turn";
  EXPECT_GE(result.report.parts.at(0).data_bytes, 3 * FakeBlocks::kWorkedOn * 4096);
  ExpectMovedWhole(*parts, parts->Move({.mode = GetParam(), .downtime_limit = kAnyRest}));
}

TEST_P(NotReadyTest, TimeThatIsOverEndsTheMove) {
  const auto parts = Mirrored();
  const FakeMoveResult result = parts->Move({.mode = GetParam(), .timeout = absl::ZeroDuration()});
  EXPECT_TRUE(absl::IsDeadlineExceeded(result.source)) << result.source;
  ExpectStayedAndNothingIsLeft(*parts, result, "blocks was not copied in 0");
  ExpectMovedWhole(*parts, parts->Move({.mode = GetParam(), .downtime_limit = kAnyRest}));
}

// A write is answered when the destination has it: then there is an end.
TEST_P(NotReadyTest, WritersWaitBeforeTheMoveIsGivenUp) {
  const auto parts = Mirrored();
  parts->here().restless = true;
  parts->here().can_block = true;
  bool blocked = false;
  const MoveMode mode = GetParam() == kPre ? kAuto : GetParam();
  const FakeMoveResult result =
      parts->Move({.mode = mode, .downtime_limit = kNotTheBlocks}, [&](Source&, const MoveProgress& progress) {
        blocked = blocked || (progress.parts.at(0).write_blocking && parts->here().blocking());
      });
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(blocked);
  EXPECT_TRUE(result.report.parts.at(0).write_blocking);
  EXPECT_FALSE(parts->here().blocking());
  EXPECT_GT(parts->here().held(), 0u);
  EXPECT_GT(parts->here().deliveries(), 0);
}

// R3: nobody waits for a move that is over.
TEST_P(NotReadyTest, WritersWaitNoLongerThanTheMove) {
  const auto parts = Mirrored();
  parts->here().restless = true;
  parts->here().can_block = true;
  std::atomic<Source*> source = nullptr;
  parts->here().on_send = [&] {
    if (parts->here().blocking()) {
      if (Source* const moves = source.exchange(nullptr); moves != nullptr) {
        EXPECT_TRUE(moves->Cancel().ok());
      }
    }
  };
  const MoveOptions options{.mode = GetParam(), .downtime_limit = kNotTheBlocks};
  bool seen = false;
  const FakeMoveResult result = parts->Move(options, [&](Source& moves, const MoveProgress&) {
    if (!std::exchange(seen, true)) {
      source = &moves;
    }
  });
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
  ExpectStayedAndNothingIsLeft(*parts, result, "cancelled");
}

INSTANTIATE_TEST_SUITE_P(All, NotReadyTest, testing::Values(kPre, kPost, kAuto),
                         [](const auto& info) { return ModeName(info.param); });

// What is left of the blocks counts with memory, and is kept up with while memory's rounds last.
TEST(MirrorTest, BlocksThatAreNotKeptUpWithEndTheMove) {
  for (const MoveMode mode : {kPre, kAuto}) {
    SCOPED_TRACE(ModeName(mode));
    const auto parts = Mirrored();
    parts->move().source_guest().Pause();
    parts->here().Pause();
    const FakeMoveResult result =
        parts->Move({.mode = mode, .downtime_limit = kNotTheBlocks}, [&](Source&, const MoveProgress& progress) {
          if (IsReady(progress) && !parts->here().restless.exchange(true)) {
            parts->here().Run();
          }
        });
    EXPECT_TRUE(absl::IsFailedPrecondition(result.source)) << result.source;
    parts->move().source_guest().Run();
    ExpectStayedAndNothingIsLeft(*parts, result, "blocks is written faster than it can be copied");
  }
}

TEST(MirrorTest, WritersWaitWhereBlocksAreNotKeptUpWith) {
  for (const MoveMode mode : {kPre, kAuto}) {
    SCOPED_TRACE(ModeName(mode));
    const auto parts = Mirrored();
    parts->here().can_block = true;
    parts->move().source_guest().Pause();
    parts->here().Pause();
    const FakeMoveResult result =
        parts->Move({.mode = mode, .downtime_limit = kNotTheBlocks}, [&](Source&, const MoveProgress& progress) {
          if (IsReady(progress) && !parts->here().restless.exchange(true)) {
            parts->here().Run();
          }
        });
    ExpectMovedWhole(*parts, result);
    EXPECT_TRUE(result.report.parts.at(0).write_blocking);
    EXPECT_GT(parts->here().deliveries(), 0) << "also in memory's rounds";
  }
}

// Nor for all that a round has of memory.
TEST(MirrorTest, WritersWaitForAPartOfARoundOfMemory) {
  const auto parts = Mirrored({.work = {.first_page = 256, .pages = 3800, .random = true}});
  parts->here().restless = true;
  parts->here().can_block = true;
  parts->move().source_guest().AwaitSteps(60000);
  parts->move().source_guest().Pause();
  std::optional<uint32_t> first;
  int deliveries = 0;
  const FakeMoveResult result =
      parts->Move({.mode = kPre, .downtime_limit = kNotTheBlocks, .max_bandwidth = uint64_t{16} << 20},
                  [&](Source&, const MoveProgress& progress) {
                    if (parts->move().port().tracking && !first.has_value()) {
                      first = progress.round;
                      deliveries = parts->here().deliveries();
                      EXPECT_TRUE(parts->here().blocking());
                    }
                  });
  ExpectMovedWhole(*parts, result);
  ASSERT_TRUE(first.has_value());
  EXPECT_GT(parts->here().deliveries() - deliveries, static_cast<int>(result.report.rounds - *first));
}

enum class Stall { kRead, kFill, kFlush };

class EachStallTest : public testing::TestWithParam<std::tuple<Stall, bool>> {};

// A disk at either end that stalls does not make the guest's stall: not where the source waits for an answer, nor where
// it reads, or writes to a connection that nobody reads from meanwhile.
TEST_P(EachStallTest, WritersDoNotWaitForStorage) {
  const auto& [where, pair] = GetParam();
  const auto parts = Mirrored({.pair = pair});
  parts->here().restless = true;
  parts->here().can_block = true;
  std::atomic<bool> stalled = false;
  const auto stall = [&] {
    if (parts->here().blocking() && !stalled.exchange(true)) {
      // The first one may be over already.
      parts->here().AwaitVisits(2);
    }
  };
  (where == Stall::kRead   ? parts->here().on_send
   : where == Stall::kFill ? parts->on_fill_there
                           : parts->on_flush_there) = stall;
  const FakeMoveResult result = parts->Move({.mode = kPre, .downtime_limit = kNotTheBlocks});
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(stalled);
}

INSTANTIATE_TEST_SUITE_P(All, EachStallTest,
                         testing::Combine(testing::Values(Stall::kRead, Stall::kFill, Stall::kFlush), testing::Bool()),
                         [](const auto& info) {
                           const Stall where = std::get<0>(info.param);
                           return absl::StrCat(where == Stall::kRead   ? "Read"
                                               : where == Stall::kFill ? "Fill"
                                                                       : "Flush",
                                               std::get<1>(info.param) ? "Pair" : "Unix");
                         });

struct Failure {
  const char* name;
  FakeFailure machine = FakeFailure::kNone;
  bool machine_there = false;
  BlocksFailure blocks = BlocksFailure::kNone;
  bool blocks_there = false;
};

class EachMirrorFailureTest : public testing::TestWithParam<std::tuple<Failure, MoveMode>> {};

// R3
TEST_P(EachMirrorFailureTest, BothStayAndASecondMoveWorks) {
  const auto& [failure, mode] = GetParam();
  const auto parts = Mirrored();
  (failure.machine_there ? parts->move().destination().failure : parts->move().port().failure) = failure.machine;
  parts->fails_there = failure.blocks_there ? failure.blocks : BlocksFailure::kNone;
  parts->here().failure = failure.blocks_there ? BlocksFailure::kNone : failure.blocks;
  const MoveOptions options{.mode = mode, .downtime_limit = kAnyRest};
  ExpectStayedAndNothingIsLeft(*parts, parts->Move(options), "injected");
  parts->move().destination().failure = FakeFailure::kNone;
  parts->move().port().failure = FakeFailure::kNone;
  parts->fails_there = BlocksFailure::kNone;
  parts->here().failure = BlocksFailure::kNone;
  ExpectMovedWhole(*parts, parts->Move(options));
}

INSTANTIATE_TEST_SUITE_P(
    All, EachMirrorFailureTest,
    testing::Combine(
        testing::Values(Failure{.name = "Track", .blocks = BlocksFailure::kStartTracking},
                        Failure{.name = "TrackMemory", .machine = FakeFailure::kStartDirtyTracking},
                        Failure{.name = "Collect", .blocks = BlocksFailure::kCollectDirty},
                        Failure{.name = "Send", .blocks = BlocksFailure::kSend},
                        Failure{.name = "Check", .blocks = BlocksFailure::kCheck, .blocks_there = true},
                        Failure{.name = "Prepare", .blocks = BlocksFailure::kPrepare, .blocks_there = true},
                        Failure{.name = "Fill", .blocks = BlocksFailure::kFill, .blocks_there = true},
                        Failure{.name = "Flush", .blocks = BlocksFailure::kFlush, .blocks_there = true},
                        Failure{.name = "Save", .machine = FakeFailure::kSaveState},
                        Failure{.name = "CheckState", .machine = FakeFailure::kCheckState, .machine_there = true},
                        Failure{.name = "Load", .machine = FakeFailure::kLoadState, .machine_there = true},
                        Failure{.name = "Run", .machine = FakeFailure::kRun, .machine_there = true}),
        testing::Values(kPre, kPost)),
    [](const auto& info) { return absl::StrCat(std::get<0>(info.param).name, ModeName(std::get<1>(info.param))); });

class EachPlaceTest : public testing::TestWithParam<std::tuple<MoveMode, int>> {};

// R3: a cancel, and a connection that breaks for good, before the first block, among them, and when they go again.
TEST_P(EachPlaceTest, CancelLeavesBothAndASecondMoveWorks) {
  const auto& [mode, place] = GetParam();
  for (const bool pair : {false, true}) {
    SCOPED_TRACE(pair);
    const auto parts = Mirrored({.pair = pair});
    std::atomic<Source*> source = nullptr;
    parts->here().on_send = [&] {
      if (parts->here().sends() == 2) {
        parts->here().AwaitVisits(100);  // or there is no third one
      }
      if (parts->here().sends() == std::get<1>(GetParam())) {
        EXPECT_TRUE(source.load()->Cancel().ok());
      }
    };
    const MoveOptions options{.mode = mode, .downtime_limit = kAnyRest};
    const FakeMoveResult result = parts->Move(options, [&](Source& moves, const MoveProgress&) { source = &moves; });
    EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
    ExpectStayedAndNothingIsLeft(*parts, result, "cancelled");
    parts->here().on_send = nullptr;
    ExpectMovedWhole(*parts, parts->Move(options));
  }
}

TEST_P(EachPlaceTest, ConnectionThatBreaksLeavesBothAndASecondMoveWorks) {
  const auto& [mode, place] = GetParam();
  const auto parts = Mirrored({.relay = true});
  parts->here().on_send = [&] {
    if (parts->here().sends() == 2) {
      parts->here().AwaitVisits(100);
    }
    if (parts->here().sends() == std::get<1>(GetParam())) {
      parts->move().relay().Cut();
    }
  };
  const MoveOptions options{.mode = mode, .downtime_limit = kAnyRest, .recover_for = absl::ZeroDuration()};
  const FakeMoveResult result = parts->Move(options);
  EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
  ExpectStayedAndNothingIsLeft(*parts, result, "");
  parts->here().on_send = nullptr;
  ExpectMovedWhole(*parts, parts->Move(options));
}

// The first pass takes two.
INSTANTIATE_TEST_SUITE_P(All, EachPlaceTest,
                         testing::Combine(testing::Values(kPre, kPost, kAuto), testing::Values(1, 2, 3)),
                         [](const auto& info) {
                           return absl::StrCat(ModeName(std::get<0>(info.param)), std::get<1>(info.param));
                         });

// What slows memory's rounds down is what is copied of the blocks: the guest is not held back for that.
TEST(MirrorTest, WritersWaitBeforeTheGuestIsHeldBack) {
  const auto parts = Mirrored({.work = {.first_page = 256, .pages = 256, .random = true}});
  parts->here().can_block = true;
  parts->here().Pause();
  int throttled_before = 0;
  bool waited = false;
  const FakeMoveResult result =
      parts->Move({.mode = kPre, .downtime_limit = absl::Milliseconds(10), .max_bandwidth = uint64_t{64} << 20},
                  [&](Source&, const MoveProgress& progress) {
                    if (IsReady(progress) && !parts->here().restless.exchange(true)) {
                      parts->here().Run();
                    }
                    waited = waited || progress.parts.at(0).write_blocking;
                    throttled_before += progress.throttle_percent > 0 && !waited ? 1 : 0;
                  });
  ExpectMovedWhole(*parts, result);
  EXPECT_TRUE(waited);
  EXPECT_EQ(throttled_before, 0);
}

TEST(MirrorTest, RegionThatIsNotWholePagesIsRefusedByName) {
  const auto parts = Mirrored();
  parts->here().odd_bytes = 512;
  const auto source = Source::Create(AnyHost(), parts->move().port(), {}, nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(source.status())) << source.status();
  EXPECT_EQ(source.status().message(), "blocks: blocks has 4096512 bytes, which are no whole pages");
}

// R1, R3: a source that knows nothing of that leaves blocks behind.
TEST(MirrorTest, BlocksThatAreMissingAtTheSwitchoverAreRefusedBeforeAnythingIsLoaded) {
  const auto parts = Mirrored();
  parts->here().mirrored = false;
  parts->mirrored_there = true;
  bool loaded = false;
  parts->move().destination().on_load = [&] { loaded = true; };
  const FakeMoveResult result = parts->Move({.mode = kPost});
  EXPECT_TRUE(absl::IsDataLoss(result.destination)) << result.destination;
  ExpectStayedAndNothingIsLeft(*parts, result, "blocks: 1000 units were never sent");
  EXPECT_FALSE(loaded);
}

// R4: what is lost behind GRANT is of memory.
TEST(MirrorTest, RecoveryAsksForNoBlock) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{1} << 20}) {
    SCOPED_TRACE(bytes);
    const auto parts = Mirrored({.relay = true});
    int sends = 0;
    parts->move().port().on_grant = [&] { sends = parts->here().sends(); };
    parts->on_run = [&] { parts->move().relay().CutAfter(bytes); };
    const FakeMoveResult result = parts->Move({.mode = kPost, .downtime_limit = kAnyRest, .channels = 2});
    ExpectMovedWhole(*parts, result);
    EXPECT_EQ(result.report.recoveries, 1u);
    EXPECT_EQ(parts->here().sends(), sends);
  }
}

// R11: what cannot be is believed of no destination.
TEST(MirrorTest, BlockThatIsSaidToBeMissingBehindTheHandOverIsRefused) {
  const auto parts = Mirrored({.relay = true});
  int sends = 0;
  parts->move().port().on_grant = [&] { sends = parts->here().sends(); };
  parts->on_run = [&] {
    parts->there().Forget(7);
    parts->move().relay().CutAfter(5000);
  };
  const FakeMoveResult result =
      parts->Move({.mode = kPost, .downtime_limit = kAnyRest, .recover_for = absl::Milliseconds(500)});
  EXPECT_EQ(result.source_state, MoveState::kPostcopyPaused) << result.source;
  EXPECT_EQ(parts->here().sends(), sends);
  EXPECT_FALSE(parts->here().running()) << "R2";
  parts->move().EndSession();
}

}  // namespace
}  // namespace ferrite::migration
