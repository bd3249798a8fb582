// R2, R4 and R10 over all orders of what can happen in a hand-over, and each rule broken once to see that it is missed.
#include "tests/model/hand_over_model.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "tests/model/explorer.h"

namespace ferrite::migration {
namespace {

constexpr size_t kMostStates = 3'000'000;

Exploration Explore(const HandOverModel::Options& options) {
  return Explorer<HandOverModel>::Run(HandOverModel(options), kMostStates);
}

std::string Told(const Exploration& exploration) {
  std::string text = exploration.violation;
  for (size_t i = 0; i < exploration.trace.size(); ++i) {
    text += "\n  " + std::to_string(i + 1) + ". " + exploration.trace[i];
  }
  return text;
}

void ExpectHolds(const HandOverModel::Options& options) {
  const Exploration result = Explore(options);
  EXPECT_TRUE(result.violation.empty()) << Told(result);
  EXPECT_TRUE(result.whole) << "not all states were seen";
  EXPECT_GT(result.ends, 0u);
  std::cout << result.states << " states, " << result.steps << " steps, " << result.ends << " ends\n";
}

TEST(HandOverModelTest, PrecopyHolds) { ExpectHolds({.pages = 0, .faults = 4, .crashes = 2, .here = 2}); }

TEST(HandOverModelTest, PostcopyHolds) { ExpectHolds({.pages = 2, .faults = 4, .crashes = 2, .here = 2}); }

// From the rounds on, whose connections are lost and made anew: never by a source that has granted.
TEST(HandOverModelTest, CopyingHolds) {
  ExpectHolds({.pages = 0, .faults = 4, .crashes = 1, .copying = true});
  ExpectHolds({.pages = 1, .faults = 3, .crashes = 1, .copying = true});
}

// The rule that docs/move.md asks of a person: `--here` is for a destination that is gone for good.
TEST(HandOverModelTest, PersonWhoIsWrongAboutTheDestinationRunsTheGuestTwice) {
  const Exploration result = Explore({.pages = 1, .person_errs = true});
  EXPECT_EQ(result.violation, "the guest runs twice (R2)");
}

// That an end can be reached is not enough: this can also go round for ever.
struct RoundaboutModel {
  struct State {
    uint8_t at;
  };
  static State Start() { return {0}; }
  template <typename Emit>
  static void Steps(const State& s, const Emit& emit) {
    if (s.at < 2) {
      emit("round", StepKind::kCourse, State{static_cast<uint8_t>(1 - s.at)});
      emit("out", StepKind::kCourse, State{2});
    }
  }
  static const char* Violation(const State&) { return nullptr; }
  static bool MustEnd(const State&, bool) { return true; }
  static bool Ended(const State& s) { return s.at == 2; }
};

TEST(ExplorerTest, MoveThatMayGoOnForEverDoesNotEnd) {
  EXPECT_EQ(Explorer<RoundaboutModel>::Run({}, 100).violation, "a move that could end does not end by itself");
}

TEST(HandOverModelTest, SearchWithoutAnEndIsFound) {
  const Exploration result = Explore({.faults = 2, .copying = true, .mutant = Mutant::kSearchesForEver});
  EXPECT_EQ(result.violation, "no end can be reached, whatever a person types");
}

class MutantTest : public testing::TestWithParam<Mutant> {};

TEST_P(MutantTest, IsFound) {
  const Exploration result = Explore({.pages = 1, .faults = 4, .crashes = 1, .mutant = GetParam()});
  EXPECT_FALSE(result.violation.empty()) << "nothing comes of it in " << result.states << " states";
  std::cout << MutantName(GetParam()) << ": " << Told(result) << "\n";
}

INSTANTIATE_TEST_SUITE_P(
    Mutants, MutantTest,
    testing::Values(Mutant::kGrantBeforeRecord, Mutant::kRecordForgottenOnLoss, Mutant::kResumeAfterGrant,
                    Mutant::kErrorIsRefusal, Mutant::kTakenBackUnanswered, Mutant::kTakenBackThoughGranted,
                    Mutant::kOldConnectionHeard, Mutant::kRunsWithoutGrant, Mutant::kRunsAfterRevoked,
                    Mutant::kRefusesAndRuns, Mutant::kRefusesBeforeItDecides, Mutant::kShutWithoutPages,
                    Mutant::kEndIsSuccess, Mutant::kDoneAtRunning, Mutant::kSentCountsAsArrived,
                    Mutant::kGivesUpWhenGrantMayCome, Mutant::kSaysGranted, Mutant::kForgetsMoveOnLoss),
    [](const testing::TestParamInfo<Mutant>& info) { return std::string(MutantName(info.param)); });

// What is refused although two sides that keep to the protocol never say it: against liars. That nothing comes of these
// says what R2 does not rest on; when one of them is found, it has begun to.
class SpareRuleTest : public testing::TestWithParam<Mutant> {};

TEST_P(SpareRuleTest, HonestSidesDoWithout) {
  ExpectHolds({.pages = 1, .faults = 3, .crashes = 1, .mutant = GetParam()});
}

INSTANTIATE_TEST_SUITE_P(Rules, SpareRuleTest,
                         testing::Values(Mutant::kAnyEpochRecovers, Mutant::kAnyRunning,
                                         Mutant::kContradictionIsGranted, Mutant::kRevokedNotAwaited),
                         [](const testing::TestParamInfo<Mutant>& info) {
                           return std::string(MutantName(info.param));
                         });

}  // namespace
}  // namespace ferrite::migration
