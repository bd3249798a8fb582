// Whole moves on a host that runs out of threads, memory or descriptors, at each of the places where it may: the guest
// runs on at one side, and moves when there is plenty again (R2, R3, R4). The guest proves it: each of its steps checks
// a page (R1).
#include "tests/fakes/scarcity.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "migration/api/move_options.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

struct Kind {
  const char* name;
  MoveMode mode;
  Scarce what;
  Refusals refusals;
};

// How long there is no memory at all, from the first refusal, which cannot tell anybody: no call of malloc's may.
constexpr absl::Duration kFamine = absl::Milliseconds(100);

constexpr uint64_t kBytes = uint64_t{8} << 20;
constexpr uint64_t kSteps = 1000;

FakeMoveSetup Small() { return {.bytes = kBytes, .work = {.first_page = 256, .pages = 1024, .random = true}}; }

class ScarcityTest : public testing::TestWithParam<Kind> {
 protected:
  // One move in which the `nth` is refused, and what must hold whatever comes of it. Returns whether any was.
  bool MoveWithoutTheNth(uint64_t nth) {
    const Kind& kind = GetParam();
    FakeMove move(Small());
    // A guest that never converges turns `auto` into post-copy.
    move.port().restless = kind.mode == MoveMode::kAuto;
    const MoveOptions options{
        .mode = kind.mode, .silence = absl::Seconds(5), .patience = absl::Seconds(1), .recover_for = absl::Seconds(20)};
    std::unique_ptr<Scarcity> scarcity;
    TimedNotification over;
    Thread giver;
    const FakeMoveResult result = move.Move(
        options,
        [&](Source&, const MoveProgress& progress) {
          const Plenty plenty;
          if (scarcity == nullptr) {
            scarcity = std::make_unique<Scarcity>(kind.what, nth, kind.refusals);
            if (kind.what == Scarce::kMemory && kind.refusals == Refusals::kAllFromThere) {
              // What must be done is done when there is memory: somebody has to give some.
              giver = StartOrDie("giver", [&] {
                const Plenty plenty;
                while (scarcity->refused() == 0 && !over.WaitFor(absl::Milliseconds(1))) {
                }
                (void)over.WaitFor(kFamine);
                scarcity->End();
              });
            }
          } else if (progress.state == MoveState::kPostcopyPaused) {
            // R4: it is waited for.
            scarcity->End();
          }
        },
        [&](Source&, const absl::Status& status) {
          const Plenty plenty;
          scarcity->End();
          return status;
        });
    over.Notify();
    giver.Join();
    SCOPED_TRACE(absl::StrCat("source: ", result.source.ToString(), "; destination: ", result.destination.ToString()));
    if (result.source_state == MoveState::kFailed) {
      ExpectStayed(move, result);
      const FakeMoveResult second = move.Move(options);
      EXPECT_TRUE(second.source.ok()) << second.source << "; " << second.destination;
      ExpectArrived(move, second);
    } else {
      ExpectArrived(move, result);
    }
    if (kind.what != Scarce::kDescriptors) {
      return scarcity->refused() > 0;
    }
    return !result.source.ok() || result.report.recoveries > 0 || !result.destination.ok();
  }

 private:
  void ExpectStayed(FakeMove& move, const FakeMoveResult& result) {
    EXPECT_TRUE(move.source_guest().running()) << "R3";
    EXPECT_TRUE(move.destination().guest() == nullptr || !move.destination().guest()->running()) << "R2";
    EXPECT_TRUE(move.port().disks_held);
    EXPECT_FALSE(move.port().tracking);
    EXPECT_EQ(move.port().inhibited, 0);
    EXPECT_EQ(move.port().throttle, 0);
    if (GetParam().what == Scarce::kThreads) {
      // Which one, and why: at the source, wherever it was.
      EXPECT_TRUE(absl::StrContains(result.source.message(), "make the thread mig-")) << result.source;
      EXPECT_TRUE(absl::StrContains(result.source.message(), "pids.max")) << result.source;
    }
    EXPECT_FALSE(absl::StrContains(result.source.message(), "malformed")) << result.source;
    EXPECT_FALSE(absl::StrContains(result.destination.message(), "malformed")) << result.destination;
  }
  void ExpectArrived(FakeMove& move, const FakeMoveResult& result) {
    ASSERT_EQ(result.source_state, MoveState::kCompleted);
    EXPECT_EQ(result.destination_state, MoveState::kCompleted);
    EXPECT_FALSE(move.source_guest().running()) << "R2";
    EXPECT_FALSE(move.port().moved_to.empty()) << "R10";
    ASSERT_NE(move.destination().guest(), nullptr);
    EXPECT_EQ(move.destination().inhibited, 0) << "R8";
    EXPECT_TRUE(move.destination().disks_held);
    ExpectGuestGoesOn(*move.destination().guest(), kSteps);
  }
};

TEST_P(ScarcityTest, GuestRunsOnWhereverItRunsOut) {
  const bool memory = GetParam().what == Scarce::kMemory;
  uint64_t tried = 0;
  // Of allocations there are some thousand: all of the first, then fewer and fewer. Of descriptors a few may be given
  // back before the one that is missing is wanted, so one move that went well is not the end of it.
  int went_well = 0;
  for (uint64_t nth = 1; went_well < (GetParam().what == Scarce::kDescriptors ? 3 : 1);
       nth += memory ? 1 + nth / 8 : 1) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    went_well = MoveWithoutTheNth(nth) ? 0 : went_well + 1;
    ++tried;
    if (HasFatalFailure() || HasNonfatalFailure()) {
      return;
    }
    ASSERT_LT(nth, memory ? 100000u : 200u) << "something is refused that nobody needs";
  }
  RecordProperty("moves", static_cast<int>(tried));
  EXPECT_GT(tried, memory ? 15u : 6u) << "nothing was refused";
}

INSTANTIATE_TEST_SUITE_P(
    All, ScarcityTest,
    testing::Values(Kind{"ThreadPrecopy", MoveMode::kPrecopy, Scarce::kThreads, Refusals::kOne},
                    Kind{"ThreadPostcopy", MoveMode::kPostcopy, Scarce::kThreads, Refusals::kOne},
                    Kind{"ThreadAuto", MoveMode::kAuto, Scarce::kThreads, Refusals::kOne},
                    Kind{"ThreadsPrecopy", MoveMode::kPrecopy, Scarce::kThreads, Refusals::kAllFromThere},
                    Kind{"ThreadsPostcopy", MoveMode::kPostcopy, Scarce::kThreads, Refusals::kAllFromThere},
                    Kind{"ThreadsAuto", MoveMode::kAuto, Scarce::kThreads, Refusals::kAllFromThere},
                    Kind{"DescriptorsPrecopy", MoveMode::kPrecopy, Scarce::kDescriptors, Refusals::kAllFromThere},
                    Kind{"DescriptorsPostcopy", MoveMode::kPostcopy, Scarce::kDescriptors, Refusals::kAllFromThere},
                    Kind{"DescriptorsAuto", MoveMode::kAuto, Scarce::kDescriptors, Refusals::kAllFromThere},
                    Kind{"MemoryPrecopy", MoveMode::kPrecopy, Scarce::kMemory, Refusals::kOne},
                    Kind{"MemoryPostcopy", MoveMode::kPostcopy, Scarce::kMemory, Refusals::kOne},
                    Kind{"MemoryAuto", MoveMode::kAuto, Scarce::kMemory, Refusals::kOne},
                    Kind{"NoMemoryPrecopy", MoveMode::kPrecopy, Scarce::kMemory, Refusals::kAllFromThere},
                    Kind{"NoMemoryPostcopy", MoveMode::kPostcopy, Scarce::kMemory, Refusals::kAllFromThere}),
    [](const testing::TestParamInfo<Kind>& info) { return std::string(info.param.name); });

// What a move needs when its connection is lost behind GRANT may be missing for a while, at either end: it is tried
// again, and the guest waits.
class ReconnectionTest : public testing::TestWithParam<Scarce> {};

TEST_P(ReconnectionTest, IsTriedAgainUntilThereIsWhatItNeeds) {
  for (const uint64_t nth : {1, 2, 3, 4, 5, 7, 10}) {
    SCOPED_TRACE(nth);
    FakeMoveSetup setup = Small();
    setup.relay = true;
    FakeMove move(setup);
    std::unique_ptr<Scarcity> scarcity;
    int paused = 0;
    const FakeMoveResult result = move.Move(
        {.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 4 << 20, .patience = absl::Milliseconds(500)},
        [&](Source&, const MoveProgress& progress) {
          const Plenty plenty;
          if (progress.state == MoveState::kPostcopyActive && scarcity == nullptr) {
            move.relay().CutAfter(1 << 20);
          }
          if (progress.state != MoveState::kPostcopyPaused) {
            return;
          }
          if (++paused == 1) {
            scarcity = std::make_unique<Scarcity>(GetParam(), nth, Refusals::kAllFromThere);
          } else if (paused == 3) {
            scarcity->End();
          }
        },
        [&](Source&, const absl::Status& status) {
          const Plenty plenty;
          if (scarcity != nullptr) {
            scarcity->End();
          }
          return status;
        });
    ASSERT_EQ(result.source_state, MoveState::kCompleted) << result.source << "; " << result.destination;
    EXPECT_EQ(result.destination_state, MoveState::kCompleted) << result.destination;
    EXPECT_GE(paused, 1);
    EXPECT_FALSE(move.source_guest().running()) << "R2";
    ExpectGuestGoesOn(*move.destination().guest(), kSteps);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReconnectionTest, testing::Values(Scarce::kThreads, Scarce::kDescriptors),
                         [](const testing::TestParamInfo<Scarce>& info) {
                           return std::string(info.param == Scarce::kThreads ? "Threads" : "Descriptors");
                         });

}  // namespace
}  // namespace ferrite::migration
