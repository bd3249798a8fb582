// Memory and a second part move together. The users of both prove them: each of their steps checks what it finds (R1).
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "tests/fakes/fake_blocks.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

class EachModeTest : public testing::TestWithParam<std::tuple<MoveMode, bool, int>> {};

TEST_P(EachModeTest, AllOfBothArrives) {
  const auto& [mode, pair, channels] = GetParam();
  TwoParts parts({.pair = pair});
  const FakeMoveResult result = parts.Move({.mode = mode, .downtime_limit = absl::Seconds(5), .channels = channels});
  parts.ExpectMoved(result);
  // Over RDMA a page that is read for a fault may be on its way as well: its frame brings nothing then.
  EXPECT_TRUE(result.report.duplicate_pages == 0 || IsRdmaWanted()) << "R6";
  // R6: nothing of either part is left out, and the last 100 blocks need no data.
  EXPECT_GE(result.report.data_pages + result.report.zero_pages + result.report.skipped_pages, 4096 + 1000u);
  EXPECT_GE(result.report.zero_pages, FakeBlocks::kBlocks - FakeBlocks::kWorkedOn);
}

INSTANTIATE_TEST_SUITE_P(All, EachModeTest,
                         testing::Combine(testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto),
                                          testing::Bool(), testing::Values(1, 3)),
                         [](const auto& info) {
                           return absl::StrCat(ModeName(std::get<0>(info.param)),
                                               std::get<1>(info.param) ? "Pair" : "Unix", std::get<2>(info.param));
                         });

// R5: at this rate the blocks take minutes, were it not for who waits for one.
TEST(PartsTest, BlockThatSomebodyWaitsForComesAtOnce) {
  TwoParts parts;
  const FakeMoveResult result = parts.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 64 << 10});
  EXPECT_GT(parts.there().waits(), 100u);
  parts.ExpectMoved(result);
  EXPECT_GT(result.report.requested_pages, 100u);
}

// One decision sums them: what is left of the blocks counts, and keeps the rounds from ending.
TEST(PartsTest, WhatIsLeftOfEachPartCounts) {
  TwoParts parts;
  parts.here().restless = true;
  uint64_t most_remaining = 0;
  const FakeMoveResult result = parts.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Microseconds(1)},
                                           [&](Source&, const MoveProgress& progress) {
                                             if (progress.round > 1) {
                                               most_remaining = std::max(most_remaining, progress.remaining_bytes);
                                             }
                                           });
  parts.ExpectMoved(result);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_GE(most_remaining, FakeBlocks::kBlocks * 4096);
}

struct Failure {
  const char* name;
  MoveMode mode;
  FakeFailure machine = FakeFailure::kNone;
  bool machine_there = false;
  BlocksFailure blocks = BlocksFailure::kNone;
  bool blocks_there = false;
};

class EachFailureTest : public testing::TestWithParam<Failure> {};

// R3: whatever fails before GRANT, both are worked on here, and the next move works.
TEST_P(EachFailureTest, BothStayAndASecondMoveWorks) {
  const Failure& failure = GetParam();
  TwoParts parts;
  (failure.machine_there ? parts.move().destination().failure : parts.move().port().failure) = failure.machine;
  parts.fails_there = failure.blocks_there ? failure.blocks : BlocksFailure::kNone;
  parts.here().failure = failure.blocks_there ? BlocksFailure::kNone : failure.blocks;
  const MoveOptions options{.mode = failure.mode, .downtime_limit = absl::Seconds(5)};
  const FakeMoveResult failed = parts.Move(options);
  parts.ExpectStayed(failed);
  EXPECT_NE(failed.source.message().find("injected"), absl::string_view::npos) << failed.source;
  parts.move().destination().failure = FakeFailure::kNone;
  parts.move().port().failure = FakeFailure::kNone;
  parts.fails_there = BlocksFailure::kNone;
  parts.here().failure = BlocksFailure::kNone;
  parts.ExpectMoved(parts.Move(options));
}

constexpr MoveMode kPre = MoveMode::kPrecopy;
constexpr MoveMode kPost = MoveMode::kPostcopy;
INSTANTIATE_TEST_SUITE_P(
    All, EachFailureTest,
    testing::Values(
        Failure{.name = "TrackPre", .mode = kPre, .blocks = BlocksFailure::kStartTracking},
        Failure{.name = "TrackPost", .mode = kPost, .blocks = BlocksFailure::kStartTracking},
        Failure{.name = "CollectPre", .mode = kPre, .blocks = BlocksFailure::kCollectDirty},
        Failure{.name = "CollectPost", .mode = kPost, .blocks = BlocksFailure::kCollectDirty},
        Failure{.name = "SendPre", .mode = kPre, .blocks = BlocksFailure::kSend},
        Failure{.name = "CheckPre", .mode = kPre, .blocks = BlocksFailure::kCheck, .blocks_there = true},
        Failure{.name = "PreparePre", .mode = kPre, .blocks = BlocksFailure::kPrepare, .blocks_there = true},
        Failure{.name = "FillPre", .mode = kPre, .blocks = BlocksFailure::kFill, .blocks_there = true},
        Failure{.name = "ArmPost", .mode = kPost, .blocks = BlocksFailure::kArm, .blocks_there = true},
        Failure{.name = "PausePre", .mode = kPre, .machine = FakeFailure::kPause},
        Failure{.name = "SavePost", .mode = kPost, .machine = FakeFailure::kSaveState},
        Failure{.name = "LoadPre", .mode = kPre, .machine = FakeFailure::kLoadState, .machine_there = true},
        Failure{.name = "LoadPost", .mode = kPost, .machine = FakeFailure::kLoadState, .machine_there = true},
        Failure{.name = "RunPre", .mode = kPre, .machine = FakeFailure::kRun, .machine_there = true},
        Failure{.name = "RunPost", .mode = kPost, .machine = FakeFailure::kRun, .machine_there = true}),
    [](const testing::TestParamInfo<Failure>& info) { return std::string(info.param.name); });

// R4: what cannot be read, or put in place, behind GRANT stops the move, not the guest; when it can be, it goes on.
TEST(PartsTest, BlocksThatCannotBeHadForAWhileComeLater) {
  for (const BlocksFailure failure : {BlocksFailure::kSend, BlocksFailure::kPublish, BlocksFailure::kSettle}) {
    SCOPED_TRACE(static_cast<int>(failure));
    TwoParts parts;
    const auto at = [&]() -> FakeBlocks& { return failure == BlocksFailure::kSend ? parts.here() : parts.there(); };
    parts.on_run = [&] { at().failure = failure; };
    const FakeMoveResult result = parts.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 1 << 20},
                                             [&](Source&, const MoveProgress& progress) {
                                               if (progress.state == MoveState::kPostcopyPaused) {
                                                 at().failure = BlocksFailure::kNone;
                                               }
                                             });
    parts.ExpectMoved(result);
    EXPECT_GE(result.report.recoveries, 1u);
  }
}

// Who waits for a block is let go when nobody waits for the source any more.
TEST(PartsTest, WaitForABlockEndsWithTheMove) {
  auto parts = std::make_unique<TwoParts>();
  parts->on_run = [&] { parts->here().failure = BlocksFailure::kSend; };
  const FakeMoveResult result = parts->Move(
      {.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 64 << 10, .recover_for = absl::Milliseconds(1)});
  EXPECT_EQ(result.source_state, MoveState::kPostcopyPaused) << result.source;
  EXPECT_EQ(result.destination_state, MoveState::kPostcopyPaused) << result.destination;
  EXPECT_GT(parts->there().waits(), 0u);
  parts->move().EndSession();
  parts->there().AwaitEnd();
}

class EachStateTest : public testing::TestWithParam<std::tuple<MoveState, MoveMode>> {};

// R3
TEST_P(EachStateTest, CancelLeavesBothAndASecondMoveWorks) {
  const auto& [when, mode] = GetParam();
  TwoParts parts;
  Source* source = nullptr;
  const auto cancel = [&] {
    if (Source* const asked = std::exchange(source, nullptr); asked != nullptr) {
      EXPECT_TRUE(asked->Cancel().ok());
    }
  };
  bool seen = false;
  parts.move().port().on_save = [&] {
    if (std::get<0>(GetParam()) == MoveState::kDevice) {
      cancel();
    }
  };
  const FakeMoveResult result = parts.Move({.mode = mode}, [&](Source& session, const MoveProgress& progress) {
    source = std::exchange(seen, true) ? source : &session;
    if (progress.state == std::get<0>(GetParam())) {
      cancel();
    }
  });
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
  parts.ExpectStayed(result);
  parts.ExpectMoved(parts.Move({.mode = mode}));
}

INSTANTIATE_TEST_SUITE_P(All, EachStateTest,
                         testing::Combine(testing::Values(MoveState::kSetup, MoveState::kActive, MoveState::kDevice),
                                          testing::Values(kPre, kPost, MoveMode::kAuto)),
                         [](const auto& info) {
                           return absl::StrCat(MoveStateName(std::get<0>(info.param)),
                                               ModeName(std::get<1>(info.param)));
                         });

// R4: wherever the connection breaks, the blocks that are missing come, too, and what had arrived is not sent again.
TEST(PartsTest, RecoveryBringsWhatIsMissingOfBoth) {
  for (const MoveMode mode : {kPre, kPost, MoveMode::kAuto}) {
    for (const uint64_t bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{1} << 20, uint64_t{4} << 20}) {
      SCOPED_TRACE(absl::StrCat(ModeName(mode), " ", bytes));
      TwoParts parts({.relay = true});
      parts.on_run = [&] { parts.move().relay().CutAfter(bytes); };
      const FakeMoveResult result = parts.Move({.mode = mode, .channels = 2});
      parts.ExpectMoved(result);
      EXPECT_LE(result.report.recoveries, 1u);
      if (mode == kPost) {
        EXPECT_EQ(result.report.recoveries, 1u);
      }
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
