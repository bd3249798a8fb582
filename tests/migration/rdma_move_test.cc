// Whole moves with queue pairs beside the connections: pages are written to their place in the rounds, and whatever
// fails of that, the guest has all its memory (R1) in one place (R2, R3).
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/landing.h"
#include "tests/migration/move_harness.h"
#include "tests/migration/two_parts.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 1000;
using End = RdmaFabric::End;
using Call = RdmaFabric::Call;

FakeMoveSetup OverRdma(const char* landing = "Small") {
  return {.bytes = uint64_t{16} << 20,
          .landing = &LandingNamed(landing),
          .work = {.first_page = 256, .pages = 2048, .random = true},
          .rdma = true};
}

class RdmaMoveTest : public testing::TestWithParam<const char*> {};

TEST_P(RdmaMoveTest, PagesAreWrittenInEachMode) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kAuto, MoveMode::kPostcopy}) {
    for (const int channels : {1, 3}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(mode) << " " << channels);
      FakeMove move(OverRdma(GetParam()));
      move.destination().on_run = [&] {
        EXPECT_LE(move.fabric().registered_bytes(End::kHere), uint64_t{16} << 20) << "the guest's memory is its own";
      };
      // The first round is long enough for keys to come.
      const FakeMoveResult result =
          move.Move({.mode = mode, .max_bandwidth = uint64_t{32} << 20, .channels = channels});
      ExpectArrived(move, result, kSteps);
      const bool registers = LandingNamed(GetParam()).backing == MemoryBacking::kAnonymous;
      if (mode != MoveMode::kAuto) {
        EXPECT_EQ(move.fabric().counts().writes > 0, registers && mode == MoveMode::kPrecopy);
      }
      EXPECT_EQ(move.fabric().counts().lost_bytes, 0u) << "R8";
      EXPECT_EQ(move.fabric().counts().refused, 0u);
      EXPECT_EQ(move.fabric().counts().reads > 0, mode == MoveMode::kPostcopy || result.report.postcopy);
    }
  }
}

// From the rounds into post-copy, with what was written and is out of date.
TEST_P(RdmaMoveTest, RoundsTurnToPostcopy) {
  FakeMove move(OverRdma(GetParam()));
  const FakeMoveResult result = move.Move(
      {.mode = MoveMode::kPrecopy, .downtime_limit = absl::Nanoseconds(1), .max_bandwidth = 50 << 20, .channels = 2},
      [](Source& source, const MoveProgress& progress) {
        if (progress.round >= 3) {
          (void)source.StartPostcopy();
        }
      });
  ExpectArrived(move, result, kSteps);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_EQ(move.fabric().counts().lost_bytes, 0u) << "R8";
  EXPECT_EQ(move.fabric().counts().refused, 0u);
}

INSTANTIATE_TEST_SUITE_P(Landings, RdmaMoveTest, testing::Values("Small", "Huge", "Memfd"),
                         [](const auto& info) { return info.param; });

// A registration that runs out costs the speed, and not the move.
TEST(RdmaFailureTest, MemoryThatCannotBeRegisteredGoesOverTheConnections) {
  for (const End end : {End::kHere, End::kThere}) {
    FakeMove move(OverRdma());
    move.fabric().LimitRegistered(end, uint64_t{16} << 20);
    const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .channels = 2});
    ExpectArrived(move, result, kSteps);
  }
}

// R3: whichever call fails first, at either end; a second move goes well.
TEST(RdmaFailureTest, GuestGoesOnWhereverAStepFails) {
  uint64_t steps = 0;
  {
    FakeMove move(OverRdma());
    ExpectArrived(move, move.Move({.mode = MoveMode::kPrecopy}), kSteps);
    steps = move.fabric().steps();
  }
  ASSERT_GT(steps, 20u);
  // All of the beginning, and then one in so many.
  std::vector<uint64_t> cases;
  for (uint64_t good = 0; good < steps; good += good < 32 ? 3 : 1 + steps / 5) {
    cases.push_back(good);
  }
  ForEachAtOnce(cases.size(), [&](uint64_t index) {
    SCOPED_TRACE(cases[index]);
    FakeMove move(OverRdma());
    move.fabric().FailStepAfter(cases[index]);
    const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .recover_for = absl::ZeroDuration()});
    ExpectOneRunner(move, result, kSteps);
    if (!result.source.ok()) {
      move.source_guest().Run();
      ExpectArrived(move, move.Move({.mode = MoveMode::kPrecopy}), kSteps);
    }
  });
}

// The copy goes on over new queue pairs.
TEST(RdmaFailureTest, RoundsGoOnWhenAQueuePairBreaks) {
  FakeMove move(OverRdma());
  bool cut = false;
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy, .max_bandwidth = uint64_t{50} << 20, .channels = 2},
                [&](Source&, const MoveProgress& progress) {
                  if (progress.round == 2 && !cut) {
                    cut = true;
                    move.fabric().Cut(0);
                  }
                });
  EXPECT_TRUE(cut);
  ExpectArrived(move, result, kSteps);
  EXPECT_EQ(move.fabric().counts().lost_bytes, 0u) << "R8";
}

// Connections are numbered as they are made: of each page channel that which is written over and that which is read
// over, and then those of the urgent ones.
constexpr size_t kReadOverFirst = 1;
constexpr size_t kUrgentOf2 = 4;

const MoveOptions kSlowPostcopy{
    .mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = uint64_t{16} << 20, .channels = 2};

// R4, and R6: what was on its way goes again over the other one.
TEST(RdmaFailureTest, PostcopyGoesOnWithFewerWhenAQueuePairBreaks) {
  FakeMove move(OverRdma());
  move.destination().on_run = [&] { move.fabric().Cut(kReadOverFirst); };
  const FakeMoveResult result = move.Move(kSlowPostcopy);
  ExpectArrived(move, result, kSteps);
  EXPECT_EQ(result.report.broken_channels, 1u);
  EXPECT_EQ(result.report.recoveries, 0u);
}

TEST(RdmaFailureTest, UrgentQueuePairIsRecovered) {
  FakeMove move(OverRdma());
  move.destination().on_run = [&] { move.fabric().Cut(kUrgentOf2); };
  const FakeMoveResult result = move.Move(kSlowPostcopy);
  ExpectArrived(move, result, kSteps);
  EXPECT_EQ(result.report.recoveries, 1u);
}

// R5: what the guest waits for is read, where its memory was registered in the rounds.
TEST(RdmaFaultTest, PagesThatTheGuestWaitsForAreRead) {
  FakeMove move(OverRdma());
  RdmaFabric::Counts at_start;
  move.destination().on_run = [&] { at_start = move.fabric().counts(); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy,
                                           .downtime_limit = absl::Nanoseconds(1),
                                           .max_bandwidth = 50 << 20,
                                           .max_postcopy_bandwidth = uint64_t{1} << 20},
                                          [](Source& source, const MoveProgress& progress) {
                                            if (progress.round >= 3) {
                                              (void)source.StartPostcopy();
                                            }
                                          });
  ExpectArrived(move, result, kSteps);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_GT(result.report.faults, 0u);
  EXPECT_GT(move.fabric().counts().reads, at_start.reads);
  EXPECT_EQ(move.fabric().counts().written_bytes, at_start.written_bytes) << "into a guest that runs";
}

TEST(RdmaFailureTest, CancelEndsAMoveWhoseWorkStalls) {
  FakeMove move(OverRdma());
  Thread canceller;
  const FakeMoveResult result =
      move.Move({.mode = MoveMode::kPrecopy, .channels = 2}, [&](Source& source, const MoveProgress& progress) {
        if (progress.round == 1 && !canceller.joinable()) {
          move.fabric().Hold(RdmaFabric::Held::kWork);
          canceller = StartOrDie("test-cancel", [&move, &source] {
            EXPECT_TRUE(move.fabric().AwaitHeld(RdmaFabric::Held::kWork, 1));
            EXPECT_TRUE(source.Cancel().ok());
          });
        }
      });
  canceller.Join();
  move.fabric().LetGo(RdmaFabric::Held::kWork);
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
  ExpectOneRunner(move, result, kSteps);
}

// Before anything of the machine goes, in words that say what to do.
TEST(RdmaFailureTest, DestinationWithoutRdmaIsToldOfAtOnce) {
  RdmaFabric fabric;
  FakeMove move({.rdma = false, .wrap = [&fabric](PairRendezvous place) {
                   auto opener = std::static_pointer_cast<SocketOpener>(place.opener);
                   place.opener =
                       std::make_shared<RdmaOpener>(opener, "rdma:there", fabric, RdmaOptions{}, RealClock());
                   return place;
                 }});
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy});
  EXPECT_TRUE(absl::IsFailedPrecondition(result.source)) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "takes no RDMA")) << result.source;
  ExpectOneRunner(move, result, kSteps);
}

TEST(RdmaFailureTest, DestinationTakesAPlainSource) {
  FakeMove move({.landing = &LandingNamed("Small"), .rdma = true, .wrap = [](PairRendezvous place) {
                   place.opener = static_cast<RdmaOpener&>(*place.opener).socket();
                   return place;
                 }});
  ExpectArrived(move, move.Move({.mode = MoveMode::kPrecopy}), kSteps);
  EXPECT_EQ(move.fabric().steps(), 0u);
}

// A disk that is mirrored goes over the connections, before and behind the rounds of memory.
TEST(RdmaPartsTest, MirroredPartsComeWithMemoryThatIsWritten) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy, MoveMode::kAuto}) {
    SCOPED_TRACE(static_cast<int>(mode));
    TwoParts parts(OverRdma(), /*mirrored=*/true);
    parts.ExpectMoved(parts.Move({.mode = mode, .channels = 2}));
  }
}

}  // namespace
}  // namespace ferrite::migration
