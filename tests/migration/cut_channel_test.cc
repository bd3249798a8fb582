// Each channel is closed at each message of a move, at either end, before and after it (R2, R3, R4): the end of a
// connection is never taken for success. Which messages there are follows from the protocol, and each of them is cut
// but PING and PONG, which nothing depends on:
//   - in a move that goes well, all that passes,
//   - in a recovery, which is cut again where the message is said again, those from RECOVER to HEARD,
//   - in a move that ends early, REFUSE, ERROR and CANCEL, from either side that has a reason to say them,
//   - where a person takes the guest back, those from RECOVER to REVOKED.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/at_once.h"
#include "tests/fakes/cut_channels.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kSteps = 200;

// What passes in no move that goes well, by where it is cut here.
const std::set<std::string> kOfARecovery = {"RECOVER", "STANDING", "MISSING"};
const std::set<std::string> kOfAnEarlyEnd = {"REFUSE", "ERROR", "CANCEL"};
const std::set<std::string> kOfATakingBack = {"REVOKE", "REVOKED"};
// They come when they like.
const std::set<std::string> kOfNothing = {"PING", "PONG"};

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
  ExpectOneRunner(move, result, kSteps);
  return plan.seen();
}

TEST(CutChannelTest, EveryMessageOfTheProtocolIsInThisTable) {
  std::set<std::string> seen;
  for (const Cut& cut : SeenInAnOrderlyMove(MoveMode::kPostcopy)) {
    seen.insert(cut.what);
  }
  for (const auto& others : {kOfARecovery, kOfAnEarlyEnd, kOfATakingBack, kOfNothing}) {
    seen.insert(others.begin(), others.end());
  }
  for (const std::string& name : AllMessages()) {
    EXPECT_TRUE(seen.contains(name)) << name;
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
    if (kOfNothing.contains(cut.what)) {
      return;
    }
    SCOPED_TRACE(testing::Message() << cut);
    CutPlan plan({cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    const FakeMoveResult result = move.Move(Options(GetParam()));
    ExpectOneRunner(move, result, kSteps);
    EXPECT_NE(result.source_state, MoveState::kCancelled) << "nobody did";
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

// At either end, before and after it.
std::vector<Cut> CutsOf(const std::string& what) {
  std::vector<Cut> cuts;
  for (const bool at_source : {true, false}) {
    for (const bool after : {false, true}) {
      cuts.push_back({.at_source = at_source, .what = what, .after = after});
    }
  }
  return cuts;
}

// The same of a recovery, and, where the message is said again, of the recovery of that.
TEST(CutRecoveryTest, GuestRunsOnceWhereverARecoveryIsCut) {
  std::vector<std::pair<std::string, Cut>> cases;
  for (const std::string first : {"GRANT", "RUNNING"}) {
    std::set<std::string> words = {"OPENED", "END", "SHUT", "HEARD"};
    words.insert(kOfARecovery.begin(), kOfARecovery.end());
    if (first == "GRANT") {
      words.insert("GRANT");
      words.insert("RUNNING");
    }
    for (const std::string& what : words) {
      for (const Cut& cut : CutsOf(what)) {
        cases.push_back({first, cut});
      }
    }
  }
  absl::Mutex mutex;
  std::set<Cut> cut_in_recovery;
  ForEachAtOnce(cases.size(), [&](uint64_t index) {
    const std::string& first = cases[index].first;
    const Cut& cut = cases[index].second;
    SCOPED_TRACE(testing::Message() << first << ", then " << cut);
    CutPlan plan({{.at_source = true, .what = first, .after = first == "RUNNING"}, cut, cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    const FakeMoveResult result = move.Move(Options(MoveMode::kPostcopy));
    EXPECT_TRUE(result.source.ok()) << "R4: " << result.source;
    ExpectOneRunner(move, result, kSteps);
    if (plan.left() <= 1) {
      const absl::MutexLock lock(&mutex);
      cut_in_recovery.insert(cut);
    }
  });
  // Not in each case: what was said before it was cut need not be said again.
  for (const auto& [first, cut] : cases) {
    EXPECT_TRUE(cut_in_recovery.contains(cut)) << cut;
  }
}

// Brings a guest back that stands still, as a person does: a try that meets the end of a destination may fail.
void TakeBackIfPaused(Source& source) {
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(20);
  while (source.state() == MoveState::kPostcopyPaused) {
    ASSERT_LT(MonotonicTime::Now(), deadline);
    (void)source.TakeBack(/*force=*/false);
  }
}

// A move that ends before the guest goes over, and the word that says so.
struct EarlyEnd {
  const char* why;
  const char* word;
  std::function<void(FakeMove&)> prepare = nullptr;
  std::function<void(FakeMove&, Source&, MoveState)> during = nullptr;
};

std::vector<EarlyEnd> EarlyEnds() {
  return {
      {"the destination cannot build the machine", "REFUSE",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kBuild; }},
      {"the destination cannot run the guest", "REFUSE",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kRun; }},
      {"it is cancelled at the destination that has loaded the state", "REFUSE",
       [](FakeMove& move) { move.port().on_grant = [&move] { EXPECT_TRUE(move.session().Cancel().ok()); }; }},
      {"the destination does not take the state", "ERROR",
       [](FakeMove& move) { move.destination().failure = FakeFailure::kCheckState; }},
      {"the source cannot save the state", "ERROR",
       [](FakeMove& move) { move.port().failure = FakeFailure::kSaveState; }},
      {"the source cannot write GRANT down", "ERROR",
       [](FakeMove& move) { move.port().failure = FakeFailure::kRecordGrant; }},
      {"it is cancelled in a round", "CANCEL", nullptr,
       [](FakeMove&, Source& source, MoveState state) {
         if (state == MoveState::kActive) {
           (void)source.Cancel();
         }
       }},
      {"it is cancelled while the state is saved", "CANCEL", nullptr,
       [](FakeMove& move, Source& source, MoveState state) {
         if (state == MoveState::kSetup) {
           move.port().on_save = [&source] { EXPECT_TRUE(source.Cancel().ok()); };
         }
       }},
  };
}

// R3: whoever does not hear the word takes nothing for granted, and the guest is the source's.
TEST(CutEarlyEndTest, GuestStaysWhereverTheWordOfItIsCut) {
  std::set<std::string> words;
  std::vector<std::pair<EarlyEnd, Cut>> cases;
  for (const EarlyEnd& end : EarlyEnds()) {
    words.insert(end.word);
    for (const Cut& cut : CutsOf(end.word)) {
      cases.push_back({end, cut});
    }
  }
  EXPECT_EQ(words, kOfAnEarlyEnd);
  ForEachAtOnce(cases.size(), [&](uint64_t index) {
    const EarlyEnd& end = cases[index].first;
    const Cut& cut = cases[index].second;
    SCOPED_TRACE(testing::Message() << end.why << ": " << cut);
    CutPlan plan({cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    if (end.prepare) {
      end.prepare(move);
    }
    const FakeMoveResult result = move.Move(
        Options(MoveMode::kPrecopy),
        [&](Source& source, const MoveProgress& progress) {
          if (end.during) {
            end.during(move, source, progress.state);
          }
          if (progress.state == MoveState::kPostcopyPaused) {
            // REFUSE was not heard, and nobody is there any more.
            source.Leave();
          }
        },
        [&](Source& source, const absl::Status& status) {
          TakeBackIfPaused(source);
          return status;
        });
    EXPECT_FALSE(result.source.ok()) << "R3";
    EXPECT_EQ(result.source_state == MoveState::kCancelled, cut.what == "CANCEL") << result.source;
    EXPECT_FALSE(result.destination.ok());
    ExpectOneRunner(move, result, kSteps);
    EXPECT_EQ(plan.left(), 0u);
  });
}

// GRANT did not arrive, and a person takes the guest back: at the second try where the first one got no answer.
TEST(CutTakingBackTest, GuestIsBackWhereverItIsCut) {
  std::vector<Cut> cases;
  std::set<std::string> words = {"RECOVER", "STANDING"};
  words.insert(kOfATakingBack.begin(), kOfATakingBack.end());
  for (const std::string& what : words) {
    for (const Cut& cut : CutsOf(what)) {
      cases.push_back(cut);
    }
  }
  ForEachAtOnce(cases.size(), [&](uint64_t index) {
    const Cut& cut = cases[index];
    SCOPED_TRACE(testing::Message() << cut);
    CutPlan plan({{.at_source = true, .what = "GRANT"}, cut});
    FakeMove move(SetupWith(plan));
    MakeIdle(move);
    const FakeMoveResult result = move.Move(
        Options(MoveMode::kPostcopy),
        [&](Source& source, const MoveProgress& progress) {
          if (progress.state == MoveState::kPostcopyPaused) {
            source.Leave();
          }
        },
        [&](Source& source, const absl::Status& status) {
          EXPECT_EQ(source.state(), MoveState::kPostcopyPaused);
          TakeBackIfPaused(source);
          return status;
        });
    EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
    EXPECT_FALSE(result.destination.ok());
    ExpectOneRunner(move, result, kSteps);
    EXPECT_EQ(plan.left(), 0u);
  });
}

}  // namespace
}  // namespace ferrite::migration
