// A page channel breaks while others of its kind live (docs/move.md): behind GRANT the move goes on over those, and
// what was on its way on it goes again (R1, R6); before, all of its connections are made anew. The guest proves it:
// each of its steps checks a page.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/cut_channels.h"
#include "tests/fakes/test_host.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 1000;
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPages = (64 * kMiB) / kPageBytes;

// Connections of a relay, in the order in which they are opened.
constexpr uint64_t kFirstPages = 1;
constexpr uint64_t kUrgent = 2;  // how many urgent ones

void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
  ASSERT_NO_FATAL_FAILURE(migration::ExpectArrived(move, result, kSteps));
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
}

MoveOptions Options(int channels) {
  return {.mode = MoveMode::kPostcopy,
          // Enough is missing when the guest runs there.
          .max_postcopy_bandwidth = 64 * kMiB,
          .channels = channels,
          .silence = absl::Seconds(5)};
}

class FewerTest : public testing::TestWithParam<const char*> {};

// Wherever in what flows behind GRANT: a reset, at any moment.
TEST_P(FewerTest, MoveGoesOnWithFewerWhereverAChannelBreaks) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{5000}, uint64_t{70000}, kMiB, 9 * kMiB, 20 * kMiB}) {
    SCOPED_TRACE(bytes);
    FakeMove move({.landing = &LandingNamed(GetParam()), .tcp = bytes % 2 == 0, .relay = true});
    move.destination().on_run = [&] {
      move.relay().ActAfter(bytes, [&move] { move.relay().CutConnection(kFirstPages + 1); });
    };
    MoveReport there;
    const FakeMoveResult result = move.Move(Options(3));
    there = move.session().report();
    ExpectArrived(move, result);
    EXPECT_EQ(result.report.recoveries, 0u);
    EXPECT_EQ(result.report.broken_channels, 1u);
    EXPECT_EQ(there.broken_channels, 1u);
    // What was on its way: of the kernel's buffers, and the relay's.
    EXPECT_LE(result.report.data_pages, kPages + 1024);
  }
}

INSTANTIATE_TEST_SUITE_P(Landings, FewerTest, testing::Values("Memfd", "Huge", "Small"),
                         [](const auto& info) { return info.param; });

// At each frame that passes behind GRANT, at either end, before and after it.
TEST(FewerChannelsTest, MoveGoesOnWhereverAFrameIsCut) {
  std::vector<Cut> cuts;
  for (const std::string what : {"page PAGES", "page ZERO", "page ROUND"}) {
    for (const bool at_source : {true, false}) {
      for (const bool after : {false, true}) {
        cuts.push_back({.at_source = at_source, .what = what, .after = after});
      }
    }
  }
  std::atomic<uint64_t> broken = 0;
  ForEachAtOnce(cuts.size(), [&](uint64_t index) {
    SCOPED_TRACE(testing::Message() << cuts[index]);
    CutPlan plan;
    FakeMove move({.bytes = 16 * kMiB,
                   .work = {.first_page = 256, .pages = 2048, .random = true},
                   .pair = true,
                   .wrap = [&plan](PairRendezvous place) { return WithCuts(std::move(place), plan); }});
    move.destination().on_run = [&] { plan.Add(cuts[index]); };
    const FakeMoveResult result = move.Move(Options(3));
    ExpectArrived(move, result);
    EXPECT_EQ(result.report.recoveries, 0u);
    EXPECT_LE(result.report.broken_channels, 1u);
    broken += result.report.broken_channels;
  });
  // Which frames there are differs from move to move, and behind the last one nobody looks.
  EXPECT_GE(broken, 4u);
}

TEST(FewerChannelsTest, AllButOneMayBreak) {
  const TestHost host;
  FakeMove move({.relay = true, .host = host.get()});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] {
      move.relay().CutConnection(kFirstPages);
      move.relay().CutConnection(kFirstPages + 3);
      move.relay().ActAfter(4 * kMiB, [&move] { move.relay().CutConnection(kFirstPages + 1); });
    });
  };
  const FakeMoveResult result = move.Move(Options(4));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 0u);
  EXPECT_EQ(result.report.broken_channels, 3u);
  EXPECT_EQ(move.session().report().broken_channels, 3u);
  EXPECT_TRUE(absl::StrContains(host.log().text(), "move: page channel 1 broke (")) << host.log().text();
  EXPECT_TRUE(absl::StrContains(host.log().text(), "); the move goes on over 1 other\n")) << host.log().text();
  EXPECT_TRUE(absl::StrContains(host.log().text(), "receive: page channel 1 broke (")) << host.log().text();
}

// R4.
TEST(FewerChannelsTest, LastOneIsRecovered) {
  for (const int channels : {1, 2}) {
    FakeMove move({.relay = true});
    move.destination().on_run = [&] {
      move.relay().ActAfter(kMiB, [&move, channels] {
        move.relay().CutConnection(kFirstPages);
        if (channels == 2) {
          move.relay().ActAfter(kMiB, [&move] { move.relay().CutConnection(kFirstPages + 1); });
        }
      });
    };
    const FakeMoveResult result = move.Move(Options(channels));
    ExpectArrived(move, result);
    EXPECT_EQ(result.report.recoveries, 1u);
  }
}

// The same: who asks goes on over none.
TEST(FewerChannelsTest, UrgentOneIsRecovered) {
  FakeMove move({.relay = true});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] { move.relay().CutConnection(kFirstPages + 3); });
  };
  const FakeMoveResult result = move.Move(Options(3));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(result.report.broken_channels, 0u);
}

// A path that loses all, and tells nobody: found when nothing has come of it for `silence`.
TEST(FewerChannelsTest, ChannelOfWhichNothingComesIsBroken) {
  FakeMove move({.tcp = true, .relay = true});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] { move.relay().LoseConnection(kFirstPages + 1); });
  };
  MoveOptions options = Options(3);
  options.silence = absl::Seconds(2);
  const FakeMoveResult result = move.Move(options);
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 0u);
  EXPECT_EQ(result.report.broken_channels, 1u);
}

// A recovered move goes on with fewer, too.
TEST(FewerChannelsTest, ChannelOfARecoveryMayBreak) {
  FakeMove move({.relay = true});
  move.destination().on_run = [&] { move.relay().ActAfter(kMiB, [&move] { move.relay().Cut(); }); };
  const FakeMoveResult result = move.Move(Options(2), [&](Source& source, const MoveProgress& progress) {
    if (progress.state == MoveState::kPostcopyActive && source.report().recoveries == 0 && move.relay().cuts() == 1) {
      // Control, two page and the urgent channels of the first try.
      move.relay().ActAfter(kMiB, [&move] { move.relay().CutConnection(1 + 2 + kUrgent + kFirstPages); });
    }
  });
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(result.report.broken_channels, 1u);
}

// It is dead when the source hears that all connections of the recovery are here: the word of it is right behind.
TEST(FewerChannelsTest, ChannelOfARecoveryMayBreakBeforeItIsUsed) {
  if (IsTlsWanted()) {
    GTEST_SKIP()
        << "it counts the bytes before the first frame, as they are in plain: over TLS that is in the handshake";
  }
  FakeMove move({.relay = true});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] {
      move.relay().CutConnectionAfter(kFirstPages + 1, /*to_destination=*/true, kPreambleBytes + kProofBytes);
      move.relay().Cut();
    });
  };
  const FakeMoveResult result = move.Move(Options(3));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(result.report.broken_channels, 1u);
  EXPECT_EQ(move.session().report().broken_channels, 1u);
}

// SHUT was lost, and then a channel over which nothing is to come: the source hears that nothing is missing.
TEST(FewerChannelsTest, ChannelMayBreakWhenAllHasCome) {
  CutPlan plan;
  FakeMove move({.pair = true, .wrap = [&plan](PairRendezvous place) { return WithCuts(std::move(place), plan); }});
  plan.Add({.at_source = false, .what = "SHUT"});
  plan.Add({.at_source = true, .what = "page ROUND"});
  const FakeMoveResult result = move.Move(Options(3));
  ExpectArrived(move, result);
  EXPECT_EQ(plan.left(), 0u);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(result.report.broken_channels, 1u);
}

// Channels that are lost with the connection did not break alone, even where they are noticed first.
TEST(FewerChannelsTest, LossOfAllIsTheLossOfNone) {
  FakeMove move({.relay = true});
  move.destination().on_run = [&] {
    move.relay().ActAfter(kMiB, [&move] {
      move.relay().CutConnection(kFirstPages);
      move.relay().CutConnection(kFirstPages + 1);
      move.relay().Cut();
    });
  };
  const FakeMoveResult result = move.Move(Options(3));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(move.session().report().broken_channels, 0u);
}

// What is mirrored was all here before GRANT; what of another part is missing is as memory.
TEST(FewerChannelsTest, OtherPartsAreWholeToo) {
  for (const bool mirrored : {false, true}) {
    SCOPED_TRACE(mirrored);
    TwoParts parts({.relay = true}, mirrored);
    parts.on_run = [&] {
      parts.move().relay().ActAfter(70000, [&] { parts.move().relay().CutConnection(kFirstPages + 1); });
    };
    const FakeMoveResult result = parts.Move(Options(3));
    parts.ExpectMoved(result);
    EXPECT_EQ(result.report.recoveries, 0u);
    EXPECT_EQ(result.report.broken_channels, 1u);
    EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  }
}

// One that knows no BROKEN loses all with one, and recovers.
TEST(FewerChannelsTest, WithoutTheFeatureOneIsAll) {
  CutPlan plan;
  plan.features = kOurFeatures & ~uint64_t{kFeatureFewer};
  FakeMove move({.pair = true, .wrap = [&plan](PairRendezvous place) { return WithCuts(std::move(place), plan); }});
  move.destination().on_run = [&] { plan.Add({.at_source = true, .what = "page PAGES"}); };
  const FakeMoveResult result = move.Move(Options(3));
  ExpectArrived(move, result);
  EXPECT_EQ(result.report.recoveries, 1u);
  EXPECT_EQ(result.report.broken_channels, 0u);
}

// In the rounds a page may be there of which a newer copy was on its way: what a channel had is known by all of them
// together (docs/move.md). It is resumed.
TEST(FewerChannelsTest, BeforeTheSwitchoverAllConnectionsAreMadeAnew) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kAuto}) {
    for (const uint64_t bytes : {uint64_t{5000}, 9 * kMiB, 20 * kMiB}) {
      SCOPED_TRACE(bytes);
      FakeMove move({.relay = true});
      bool cuts = false;
      const FakeMoveResult result =
          move.Move({.mode = mode, .channels = 3}, [&](Source&, const MoveProgress& progress) {
            if (progress.state == MoveState::kActive && !std::exchange(cuts, true)) {
              move.relay().ActAfter(bytes, [&move] { move.relay().CutConnection(kFirstPages + 2); });
            }
          });
      ExpectArrived(move, result);
      // It may be in post-copy by then.
      EXPECT_EQ(result.report.recoveries + result.report.broken_channels, 1u);
      EXPECT_EQ(result.report.recoveries, mode == MoveMode::kPrecopy ? 1u : result.report.recoveries);
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
