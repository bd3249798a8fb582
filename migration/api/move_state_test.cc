#include "migration/api/move_state.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using enum MoveState;

constexpr MoveState kAll[] = {kNone,           kSetup,          kActive,          kDevice,
                              kPostcopyActive, kPostcopyPaused, kPostcopyRecover, kCompleted,
                              kFailing,        kFailed,         kCancelling,      kCancelled};

TEST(MoveStateTest, NamesAreThoseOfQemu) {
  // MigrationStatus of qapi/migration.json, as far as a move here has them;
  // "failing" is QEMU 10's.
  const std::vector<std::string> names = {
      "none",      "setup",   "active", "device",     "postcopy-active", "postcopy-paused", "postcopy-recover",
      "completed", "failing", "failed", "cancelling", "cancelled"};
  ASSERT_EQ(names.size(), std::size(kAll));
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(MoveStateName(kAll[i]), names[i]);
  }
}

TEST(MoveStateTest, AllowsWhatTheHeaderDrawsAndNothingElse) {
  const std::set<std::pair<MoveState, MoveState>> drawn = {
      {kNone, kSetup},
      {kNone, kCancelled},
      {kSetup, kActive},
      {kSetup, kFailing},
      {kSetup, kCancelling},
      {kActive, kDevice},
      {kActive, kFailing},
      {kActive, kCancelling},
      {kDevice, kPostcopyActive},
      {kDevice, kFailing},
      {kDevice, kCancelling},
      {kPostcopyActive, kCompleted},
      {kPostcopyActive, kPostcopyPaused},
      {kPostcopyActive, kFailing},
      {kPostcopyPaused, kPostcopyRecover},
      {kPostcopyRecover, kPostcopyActive},
      {kPostcopyRecover, kPostcopyPaused},
      {kPostcopyRecover, kFailing},
      {kFailing, kFailed},
      {kCancelling, kCancelled},
  };
  for (const MoveState from : kAll) {
    for (const MoveState to : kAll) {
      EXPECT_EQ(IsAllowed(from, to), drawn.contains({from, to})) << MoveStateName(from) << " -> " << MoveStateName(to);
    }
  }
}

// R4: behind GRANT nothing is cancelled, a guest that runs elsewhere is not
// given up by a word.
TEST(MoveStateTest, NothingIsCancelledBehindGrant) {
  for (const MoveState from : {kPostcopyActive, kPostcopyPaused, kPostcopyRecover}) {
    EXPECT_FALSE(IsAllowed(from, kCancelling)) << MoveStateName(from);
  }
}

TEST(MoveStateTest, FinalStatesAreThoseThatNothingFollows) {
  for (const MoveState state : kAll) {
    bool followed = false;
    for (const MoveState to : kAll) {
      followed |= IsAllowed(state, to);
    }
    EXPECT_EQ(IsFinal(state), !followed) << MoveStateName(state);
  }
}

// Of a completion and a connection that is lost at the same moment exactly one
// wins, and both know which.
TEST(MoveStateMachineTest, OneOfTwoChangesWins) {
  for (int round = 0; round < 200; ++round) {
    MoveStateMachine state;
    for (const auto& [from, to] :
         {std::pair(kNone, kSetup), {kSetup, kActive}, {kActive, kDevice}, {kDevice, kPostcopyActive}}) {
      ASSERT_TRUE(state.Change(from, to));
    }
    std::atomic<int> won{0};
    std::atomic<int> ready{0};
    const auto change = [&](MoveState to) {
      ++ready;
      while (ready < 2) {
      }
      won += state.Change(kPostcopyActive, to) ? 1 : 0;
    };
    Thread completion = StartOrDie("completion", [&] { change(kCompleted); });
    change(kPostcopyPaused);
    completion.Join();
    EXPECT_EQ(won, 1);
    EXPECT_TRUE(state.get() == kCompleted || state.get() == kPostcopyPaused);
  }
}

TEST(MoveStateMachineTest, ChangeFromAStateThatIsNoMoreChangesNothing) {
  MoveStateMachine state;
  ASSERT_TRUE(state.Change(kNone, kSetup));
  EXPECT_FALSE(state.Change(kNone, kCancelled));
  EXPECT_EQ(state.get(), kSetup);
}

TEST(MoveStateMachineTest, ChangesFromWhicheverOfSeveralItIs) {
  MoveStateMachine state;
  EXPECT_FALSE(state.ChangeFrom({kSetup, kActive, kDevice}, kCancelling));
  EXPECT_FALSE(state.ChangeFrom({}, kCancelling));
  EXPECT_EQ(state.get(), kNone);
  const std::pair<MoveState, MoveState> way[] = {{kNone, kSetup}, {kSetup, kActive}, {kActive, kDevice}};
  for (size_t steps = 1; steps <= std::size(way); ++steps) {
    MoveStateMachine on_its_way;
    for (size_t i = 0; i < steps; ++i) {
      ASSERT_TRUE(on_its_way.Change(way[i].first, way[i].second));
    }
    EXPECT_TRUE(on_its_way.ChangeFrom({kSetup, kActive, kDevice}, kCancelling));
    EXPECT_EQ(on_its_way.get(), kCancelling);
    EXPECT_FALSE(on_its_way.ChangeFrom({kSetup, kActive, kDevice}, kCancelling)) << "once";
  }
}

// A cancel is not lost to a move that goes on at the same moment.
TEST(MoveStateMachineTest, ChangeFromTheStatesOfAWayMeetsOneThatGoesOn) {
  constexpr int kRounds = 1000;
  std::vector<MoveStateMachine> states(kRounds);
  std::atomic<int> here{0};
  std::atomic<int> there{0};
  // Both begin a round at once.
  const auto meet = [](std::atomic<int>& own, const std::atomic<int>& other) {
    for (const int round = ++own; other < round;) {
    }
  };
  Thread move = StartOrDie("move", [&] {
    for (MoveStateMachine& state : states) {
      (void)state.Change(kNone, kSetup);
      meet(there, here);
      (void)(state.Change(kSetup, kActive) && state.Change(kActive, kDevice));
    }
  });
  int cancelled = 0;
  for (MoveStateMachine& state : states) {
    meet(here, there);
    cancelled += state.ChangeFrom({kSetup, kActive, kDevice}, kCancelling) ? 1 : 0;
  }
  move.Join();
  EXPECT_EQ(cancelled, kRounds);
}

TEST(MoveStateMachineDeathTest, ChangeThatIsNotDrawnIsAMistakeOfOurs) {
  MoveStateMachine state;
  EXPECT_DEATH((void)state.Change(kNone, kCompleted), "IsAllowed");
  EXPECT_DEATH((void)state.ChangeFrom({kSetup, kNone}, kCompleted), "IsAllowed");
}

}  // namespace
}  // namespace ferrite::migration
