// Each channel is closed at each message of a move, at either end, before and after it (R2, R3, R4): the end of a
// connection is never taken for success. Which messages there are follows from the protocol and from a move that goes
// well.
#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/cut_channels.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

// Of a recovery, of a move that ends early, or that come when they like.
const std::set<std::string> kInNoOrderlyMove = {"REFUSE",  "ERROR",    "CANCEL", "PING",    "PONG",
                                                "RECOVER", "STANDING", "REVOKE", "REVOKED", "MISSING"};

template <size_t... kIndex>
std::vector<std::string> NamesOf(std::index_sequence<kIndex...>) {
  return {std::string(MessageName(std::variant_alternative_t<kIndex, Message>{}))...};
}
std::vector<std::string> AllMessages() { return NamesOf(std::make_index_sequence<std::variant_size_v<Message>>()); }

// The end of the connection is the source's affair alone from here on, and the destination goes on without it.
bool IsLate(const std::string& what) {
  const std::set<std::string> late = {"GRANT", "RUNNING", "END", "SHUT", "HEARD", "RECOVER", "STANDING", "MISSING"};
  return late.contains(what);
}

// Most of a case is waiting: other tests want the processors meanwhile.
void MakeIdle(FakeMove& move) {
  constexpr int kIdlePercent = 80;
  move.source_guest().SetThrottle(kIdlePercent);
  move.destination().on_run = [&move] { move.destination().guest()->SetThrottle(kIdlePercent); };
}

FakeMoveSetup SetupWith(CutPlan& plan) {
  return {.bytes = uint64_t{16} << 20,
          .work = {.first_page = 256, .pages = 2048, .random = true},
          .wrap = [&plan](PairRendezvous place) { return WithCuts(std::move(place), plan); }};
}

void ExpectOneRunner(FakeMove& move, const FakeMoveResult& result) {
  FakeGuest* const there = move.destination().guest();
  const bool runs_there = there != nullptr && there->running();
  ASSERT_NE(move.source_guest().running(), runs_there)
      << "R2: source " << result.source << ", destination " << result.destination;
  if (runs_there) {
    EXPECT_EQ(result.source_state, MoveState::kCompleted) << result.source;
    EXPECT_EQ(result.destination_state, MoveState::kCompleted) << result.destination;
  } else {
    EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
    EXPECT_TRUE(move.port().disks_held);
  }
  ExpectGuestGoesOn(runs_there ? *there : move.source_guest(), 200);
}

MoveOptions Options(MoveMode mode) {
  return {.mode = mode,
          // Enough is missing when the guest runs there.
          .max_postcopy_bandwidth = uint64_t{64} << 20,
          // Nobody is waited for as long: connections are closed.
          .silence = absl::Seconds(5),
          .patience = absl::Seconds(5),
          .recover_for = absl::Seconds(5)};
}

std::set<Cut> SeenInAnOrderlyMove(MoveMode mode) {
  CutPlan plan;
  FakeMove move(SetupWith(plan));
  MakeIdle(move);
  const FakeMoveResult result = move.Move(Options(mode));
  EXPECT_TRUE(result.source.ok()) << result.source;
  ExpectOneRunner(move, result);
  return plan.seen();
}

TEST(CutChannelTest, EveryMessageOfTheProtocolIsInThisTable) {
  std::set<std::string> seen;
  for (const Cut& cut : SeenInAnOrderlyMove(MoveMode::kPostcopy)) {
    seen.insert(cut.what);
  }
  for (const std::string& name : AllMessages()) {
    EXPECT_TRUE(seen.contains(name) || kInNoOrderlyMove.contains(name)) << name;
  }
  for (const char* frame : {"page PAGES", "page ROUND", "urgent PAGES", "urgent REQUEST"}) {
    EXPECT_TRUE(seen.contains(frame)) << frame;
  }
}

class CutTest : public testing::TestWithParam<MoveMode> {};

TEST_P(CutTest, GuestRunsOnceWhereverAChannelIsClosed) {
  const std::set<Cut> seen = SeenInAnOrderlyMove(GetParam());
  const std::vector<Cut> cuts(seen.begin(), seen.end());
  ForEachAtOnce(cuts.size(), [&](uint64_t index) {
    const Cut& cut = cuts[index];
    if (cut.what == "PING" || cut.what == "PONG") {
      return;
    }
    SCOPED_TRACE(testing::Message() << cut);
    CutPlan plan({cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    const FakeMoveResult result = move.Move(Options(GetParam()));
    ExpectOneRunner(move, result);
    const bool is_control = cut.what.find(' ') == std::string::npos;
    // Which pages a guest waits for differs from move to move.
    EXPECT_TRUE(plan.left() == 0 || !is_control);
    if (is_control && IsLate(cut.what)) {
      EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    } else if (is_control && cut.what != "LOADED" && !(cut.what == "PACKAGE" && cut.after)) {
      // Of these two the other side may have had the next word before the cut.
      EXPECT_FALSE(result.source.ok()) << "R3";
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, CutTest, testing::Values(MoveMode::kPostcopy, MoveMode::kPrecopy),
                         [](const testing::TestParamInfo<MoveMode>& info) {
                           return info.param == MoveMode::kPostcopy ? "Postcopy" : "Precopy";
                         });

// The same of a recovery, and, where the message is said again, of the recovery of that.
TEST(CutRecoveryTest, GuestRunsOnceWhereverARecoveryIsCut) {
  std::vector<std::pair<std::string, Cut>> cases;
  for (const std::string first : {"GRANT", "RUNNING"}) {
    for (const std::string what : {"RECOVER", "STANDING", "GRANT", "RUNNING", "MISSING", "OPENED", "END", "SHUT"}) {
      if (first == "RUNNING" && (what == "GRANT" || what == "RUNNING")) {
        continue;
      }
      for (const bool at_source : {true, false}) {
        for (const bool after : {false, true}) {
          cases.push_back({first, {.at_source = at_source, .what = what, .after = after}});
        }
      }
    }
  }
  absl::Mutex mutex;
  std::set<std::string> cut_in_recovery;
  ForEachAtOnce(cases.size(), [&](uint64_t index) {
    const std::string& first = cases[index].first;
    const Cut& cut = cases[index].second;
    SCOPED_TRACE(testing::Message() << first << ", then " << cut);
    CutPlan plan({{.at_source = true, .what = first, .after = first == "RUNNING"}, cut, cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    const FakeMoveResult result = move.Move(Options(MoveMode::kPostcopy));
    EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    ExpectOneRunner(move, result);
    if (plan.left() <= 1) {
      const absl::MutexLock lock(&mutex);
      cut_in_recovery.insert(cut.what);
    }
  });
  // Not in each case: what was said before it was cut need not be said again.
  for (const auto& [first, cut] : cases) {
    EXPECT_TRUE(cut_in_recovery.contains(cut.what)) << cut.what;
  }
}

}  // namespace
}  // namespace ferrite::migration
