// Connections that are lost while the guest is copied and runs at the source: the move goes on with what is missing
// (R1, R3, R6). The guest proves it: each of its steps checks a page.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "tests/fakes/fake_blocks.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 1000;
constexpr uint64_t kMiB = 1 << 20;
constexpr absl::Duration kSoon = absl::Milliseconds(300);

void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_NO_FATAL_FAILURE(migration::ExpectArrived(move, result, kSteps));
  EXPECT_FALSE(move.port().tracking);
}

void ExpectStayed(FakeMove& move, const FakeMoveResult& result) {
  EXPECT_FALSE(result.source.ok());
  EXPECT_FALSE(result.destination.ok());
  ASSERT_NO_FATAL_FAILURE(ExpectOneRunner(move, result, kSteps));
  EXPECT_FALSE(move.port().tracking);
  EXPECT_EQ(move.port().inhibited, 0);
  move.source_guest().Run();
}

// Calls `act` once, when the copying begins.
std::function<void(Source&, const MoveProgress&)> WhenCopying(std::function<void(Source&)> act) {
  return [act = std::move(act), done = false](Source& source, const MoveProgress& progress) mutable {
    if (progress.state == MoveState::kActive && !std::exchange(done, true)) {
      act(source);
    }
  };
}

class ResumeTest : public testing::TestWithParam<MoveMode> {};

TEST_P(ResumeTest, MoveGoesOnWhereverTheRoundsAreCut) {
  for (const uint64_t bytes :
       {uint64_t{1}, uint64_t{100}, uint64_t{5000}, uint64_t{70000}, kMiB, 9 * kMiB, 20 * kMiB}) {
    if (GetParam() == MoveMode::kPostcopy && bytes > 1) {
      break;  // there are none then: it may be in the standstill, which ends the move
    }
    SCOPED_TRACE(bytes);
    FakeMove move({.relay = true});
    const FakeMoveResult result =
        move.Move({.mode = GetParam(), .channels = 2}, WhenCopying([&](Source&) { move.relay().CutAfter(bytes); }));
    ExpectArrived(move, result);
    EXPECT_EQ(result.report.recoveries, 1u);
    EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, ResumeTest, testing::Values(MoveMode::kPrecopy, MoveMode::kAuto, MoveMode::kPostcopy),
                         [](const auto& info) { return ModeName(info.param); });

TEST(ResumeMoveTest, ConnectionMayBeLostManyTimes) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kAuto}) {
    FakeMove move({.relay = true});
    uint64_t cuts = 0;
    const FakeMoveResult result = move.Move(
        {.mode = mode, .max_bandwidth = 64 * kMiB, .channels = 2}, [&](Source&, const MoveProgress& progress) {
          if (progress.state == MoveState::kActive && cuts < 5 && move.relay().cuts() == cuts) {
            ++cuts;
            move.relay().CutAfter(3 * kMiB / 2);
          }
        });
    ExpectArrived(move, result);
    EXPECT_GE(result.report.recoveries, 2u);
  }
}

// R6: what has arrived does not go again.
TEST(ResumeMoveTest, CopyingDoesNotStartAgain) {
  FakeMove move({.relay = true});
  move.source_guest().Pause();
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .max_bandwidth = 64 * kMiB},
                                          WhenCopying([&](Source&) { move.relay().CutAfter(13 * kMiB); }));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  // Parts of 2, 4 and 8 MiB, and so on: at most the third one is lost, and what the kernel has.
  EXPECT_LE(result.report.data_pages, 8192 + 256 + 2048u);
}

// The same of a disk: it is cut in places that are on_send()'s.
TEST(ResumeMoveTest, MirroredPartDoesNotStartAgain) {
  for (const int place : {1, 2, 3}) {
    for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kAuto, MoveMode::kPostcopy}) {
      SCOPED_TRACE(ModeName(mode));
      TwoParts parts({.relay = true}, /*mirrored=*/true);
      parts.here().on_send = [&] {
        if (parts.here().sends() == 2) {
          parts.here().AwaitVisits(100);  // or there is no third one
        }
        if (parts.here().sends() == place) {
          parts.move().relay().Cut();
        }
      };
      const FakeMoveResult result = parts.Move({.mode = mode, .downtime_limit = absl::Seconds(5)});
      parts.ExpectMoved(result);
      EXPECT_EQ(result.report.recoveries, 1u);
      EXPECT_EQ(parts.there().waits(), 0u);
      EXPECT_TRUE(parts.there().flushed());
      const PartFigures& blocks = result.report.parts.at(0);
      EXPECT_GE(blocks.data_bytes + blocks.zero_bytes, blocks.bytes);
      EXPECT_LE(blocks.data_bytes + blocks.zero_bytes, blocks.bytes + blocks.again_bytes) << "and what did not leave";
    }
  }
}

// R1: a word of what is out of date may be lost, and what is over there is not taken for new.
TEST(ResumeMoveTest, DiscardsThatAreLostAreToldAgain) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{2000}, uint64_t{10000}, uint64_t{100000}, kMiB}) {
    SCOPED_TRACE(bytes);
    TwoParts parts({.relay = true}, /*mirrored=*/true);
    std::atomic<bool> asked = false;
    const FakeMoveResult result =
        parts.Move({.mode = MoveMode::kPrecopy, .downtime_limit = absl::Seconds(5), .max_bandwidth = 64 * kMiB},
                   [&](Source& source, const MoveProgress& progress) {
                     if (parts.move().port().tracking && progress.round > 4 && !asked && source.StartPostcopy().ok()) {
                       asked = true;
                       parts.move().relay().CutAfter(bytes);
                     }
                   });
    if (bytes > 10000 && !result.source.ok()) {
      // The guest stood still by then.
      parts.ExpectStayed(result);
      continue;
    }
    parts.ExpectMoved(result);
    EXPECT_TRUE(result.report.postcopy || !asked);
  }
}

void AwaitOver(const std::function<bool()>& over) {
  for (const MonotonicTime start = MonotonicTime::Now(); !over();) {
    ASSERT_LT(MonotonicTime::Now() - start, absl::Seconds(30));
    std::this_thread::yield();
  }
}

// R1: what was told to be zero, and written before that had arrived, is not told so again beside what was written. The
// destination makes zeroes only when bytes have come that overtake them on another channel.
TEST(ResumeMoveTest, ZeroesThatAreToldAgainDoNotComeBehindWhatWasWritten) {
  constexpr uint64_t kNone = UINT64_MAX;
  TwoParts parts({.relay = true}, /*mirrored=*/true);
  parts.here().discards = 700;
  std::atomic<int> zeroes = 0;  // the discarded blocks, and the last ones
  std::atomic<bool> cut = false;
  std::atomic<int> sends = 0;  // since then
  std::atomic<uint64_t> filled_before = kNone;
  std::atomic<bool> begun = false;
  parts.here().on_send = [&] {
    if (!begun.exchange(true)) {
      AwaitOver([&] { return zeroes == 2; });
      parts.here().AwaitVisits(20 * FakeBlocks::kWorkedOn);
      // What is wrong there is not written over.
      parts.here().Pause();
      cut = true;
      parts.move().relay().Cut();
    } else if (!cut) {
      // Another channel's, that is lost, too.
      AwaitOver([&] { return cut.load(); });
    } else if (sends < 2) {
      // Two channels have a run each, of which one is not the first channel, before anything goes.
      filled_before = parts.there().filled();
      ++sends;
      AwaitOver([&] { return sends >= 2; });
    }
  };
  parts.on_zero_there = [&] {
    if (++zeroes == 3) {
      EXPECT_TRUE(cut);
      AwaitOver([&] { return filled_before != kNone && parts.there().filled() >= filled_before + 300; });
    }
  };
  const FakeMoveResult result =
      parts.Move({.mode = MoveMode::kPrecopy, .downtime_limit = absl::Seconds(5), .channels = 3});
  parts.ExpectMoved(result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_GE(zeroes, 3) << "those of the last blocks";
}

TEST(ResumeMoveTest, GuestStaysWhenTheDestinationIsNotFound) {
  FakeMove move({.relay = true});
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .recover_for = kSoon}, WhenCopying([&](Source&) {
                                            move.relay().Close();
                                            move.relay().CutAfter(5 * kMiB);
                                          }));
  ExpectStayed(move, result);
  EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "pre-copy: ")) << result.source;
  // R3
  ExpectArrived(move, move.Move({.mode = MoveMode::kPrecopy}));
}

TEST(ResumeMoveTest, WhyTheOtherSideIsNotBelievedIsTold) {
  FakeMove move({.tls = true, .relay = true});
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .recover_for = kSoon}, WhenCopying([&](Source&) {
                                            move.RenewCertificates();
                                            move.relay().CutAfter(5 * kMiB);
                                          }));
  ExpectStayed(move, result);
  EXPECT_TRUE(absl::StrContains(result.source.message(), "pre-copy: ")) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), ", and then: ")) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "its certificate is not believed: ")) << result.source;
}

// Who finds it again and again, and loses it before anything has arrived, does not do so for ever.
TEST(ResumeMoveTest, DestinationThatIsFoundForNothingIsNotLookedForForEver) {
  FakeMove move({.relay = true});
  std::atomic<bool> cut = false;
  const MonotonicTime start = MonotonicTime::Now();
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy, .recover_for = kSoon}, [&](Source&, const MoveProgress& progress) {
        if (progress.state == MoveState::kActive) {
          cut = true;
          move.relay().CutAfter(4000);
        }
      });
  ExpectStayed(move, result);
  EXPECT_TRUE(cut);
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(30));
}

// As before: neither side waits.
TEST(ResumeMoveTest, WhoDoesNotLookForTheDestinationDoesNotHaveItWait) {
  FakeMove move({.relay = true});
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .recover_for = absl::ZeroDuration()},
                                          WhenCopying([&](Source&) { move.relay().CutAfter(5 * kMiB); }));
  ExpectStayed(move, result);
  EXPECT_EQ(result.report.recoveries, 0u);
}

TEST(ResumeMoveTest, CancelEndsTheSearch) {
  FakeMove move({.relay = true});
  bool lost = false;
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy}, [&](Source& source, const MoveProgress& progress) {
        if (progress.state != MoveState::kActive) {
          return;
        }
        if (!std::exchange(lost, true)) {
          move.relay().Close();
          move.relay().Cut();
        } else {
          // It is told of when it is looked for.
          EXPECT_TRUE(source.Cancel().ok());
        }
      });
  ExpectStayed(move, result);
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
}

// Nobody waits for a write to arrive while there is no connection.
TEST(ResumeMoveTest, WritersGoOnWhileTheDestinationIsLookedFor) {
  TwoParts parts({.relay = true}, /*mirrored=*/true);
  parts.here().restless = true;
  parts.here().can_block = true;
  std::atomic<bool> cut = false;
  bool went_on = false;
  parts.here().on_send = [&] {
    if (parts.here().blocking() && !cut.exchange(true)) {
      parts.move().relay().Cut();
    }
  };
  const FakeMoveResult result = parts.Move({.mode = MoveMode::kPrecopy, .downtime_limit = absl::Milliseconds(1)},
                                           [&](Source&, const MoveProgress&) {
                                             if (cut && !went_on && !parts.here().blocking()) {
                                               parts.here().AwaitVisits(10);
                                               went_on = true;
                                             }
                                           });
  parts.ExpectMoved(result);
  EXPECT_TRUE(went_on);
  EXPECT_EQ(result.report.recoveries, 1u);
}

}  // namespace
}  // namespace ferrite::migration
