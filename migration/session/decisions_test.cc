#include "migration/session/decisions.h"

#include <gtest/gtest.h>

#include <optional>

namespace ferrite::migration {
namespace {

constexpr MoveState kStates[] = {
    MoveState::kNone,           MoveState::kSetup,          MoveState::kActive,          MoveState::kDevice,
    MoveState::kPostcopyActive, MoveState::kPostcopyPaused, MoveState::kPostcopyRecover, MoveState::kCompleted,
    MoveState::kFailing,        MoveState::kFailed,         MoveState::kCancelling,      MoveState::kCancelled};

// R2, R3.
TEST(DecisionsTest, SourceGoesOnOnlyIfTheGuestCannotRunThere) {
  EXPECT_EQ(AfterFailure(false), Fallback::kGoOnHere);
  EXPECT_EQ(AfterFailure(true), Fallback::kStandStill);
  EXPECT_FALSE(MayRunAfterFailedGrant(/*refused=*/true));
  EXPECT_TRUE(MayRunAfterFailedGrant(/*refused=*/false));
}

TEST(DecisionsTest, RunningAnswersTheLastGrantAlone) {
  EXPECT_TRUE(AnswersGrant(2, 2));
  EXPECT_FALSE(AnswersGrant(1, 2));
  EXPECT_FALSE(AnswersGrant(3, 2));
}

TEST(DecisionsTest, GrantIsSentAgainOnlyToWhoNeverHadIt) {
  EXPECT_EQ(DecideAfterStanding(true, false), AfterStanding::kGoOn);
  EXPECT_EQ(DecideAfterStanding(true, true), AfterStanding::kGoOn);
  EXPECT_EQ(DecideAfterStanding(false, false), AfterStanding::kGrantAgain);
  EXPECT_EQ(DecideAfterStanding(false, true), AfterStanding::kContradiction);
}

// R2: force overrides silence, and nothing that the destination says.
TEST(DecisionsTest, GuestIsTakenBackWhenTheDestinationDoesNotHaveIt) {
  for (const bool force : {false, true}) {
    for (const bool ended : {false, true}) {
      EXPECT_EQ(DecideTakingBack(true, ended, true, force), TakingBack::kHasGuest);
    }
    EXPECT_EQ(DecideTakingBack(false, false, true, force), TakingBack::kRevoke);
    EXPECT_EQ(DecideTakingBack(false, true, true, force), TakingBack::kEnded);
    EXPECT_EQ(DecideTakingBack(std::nullopt, true, true, force), TakingBack::kEnded);
    EXPECT_EQ(DecideTakingBack(std::nullopt, false, false, force), TakingBack::kOnWord);
  }
  EXPECT_EQ(DecideTakingBack(std::nullopt, false, true, false), TakingBack::kNeedsForce);
  EXPECT_EQ(DecideTakingBack(std::nullopt, false, true, true), TakingBack::kOnWord);
}

TEST(DecisionsTest, DestinationIsLookedForWhileTheMoveIsPaused) {
  for (const MoveState state : kStates) {
    EXPECT_EQ(MaySearch(state, true), state == MoveState::kPostcopyPaused) << MoveStateName(state);
    EXPECT_FALSE(MaySearch(state, false)) << MoveStateName(state);
  }
}

TEST(DecisionsTest, GuestRunsByAGrantOfItsMoveWhenItIsLoaded) {
  EXPECT_EQ(DecideOnGrant(true, true), OnGrant::kRun);
  EXPECT_EQ(DecideOnGrant(true, false), OnGrant::kNotLoaded);
  EXPECT_EQ(DecideOnGrant(false, true), OnGrant::kOtherMove);
  EXPECT_EQ(DecideOnGrant(false, false), OnGrant::kOtherMove);
}

TEST(DecisionsTest, RecoverIsAnsweredByWhetherTheGuestIsHere) {
  for (const MoveState state : kStates) {
    if (HasGuest(state)) {
      EXPECT_EQ(DecideOnRecover(state, 2, 2), OnRecover::kGranted) << MoveStateName(state);
      EXPECT_EQ(DecideOnRecover(state, 2, 1), OnRecover::kWrongEpoch) << MoveStateName(state);
      EXPECT_EQ(DecideOnRecover(state, 2, 3), OnRecover::kWrongEpoch) << MoveStateName(state);
    } else {
      const OnRecover copying = state == MoveState::kActive ? OnRecover::kWrongEpoch : OnRecover::kOver;
      EXPECT_EQ(DecideOnRecover(state, 0, 1), state == MoveState::kDevice ? OnRecover::kNotGranted : copying)
          << MoveStateName(state);
    }
  }
}

TEST(DecisionsTest, GuestIsHereFromGrantToTheEnd) {
  for (const MoveState state : kStates) {
    EXPECT_EQ(HasGuest(state), state == MoveState::kPostcopyActive || state == MoveState::kPostcopyPaused ||
                                   state == MoveState::kPostcopyRecover)
        << MoveStateName(state);
  }
}

TEST(DecisionsTest, SourceIsWaitedForWhileGrantMayBeOnItsWay) {
  const Ending lost = {.can_recover = true, .loaded = true, .lost = true};
  EXPECT_TRUE(DecideMayComeBack(MoveState::kDevice, lost));
  Ending other = lost;
  other.loaded = false;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kDevice, other)) << "no GRANT before LOADED";
  other = lost;
  other.lost = false;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kDevice, other)) << "the source is there, and is told";
  other = lost;
  other.said_why = true;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kDevice, other)) << "it gave up before GRANT";
}

// R2: who has granted is no source that copies, and who copies has granted nothing.
TEST(DecisionsTest, SourceThatIsCopyingComesBackToWhomItWasCopying) {
  EXPECT_EQ(DecideOnRecover(MoveState::kActive, 0, 0), OnRecover::kCopying);
  const Ending lost = {.can_recover = true, .can_resume = true, .lost = true};
  EXPECT_TRUE(DecideMayComeBack(MoveState::kActive, lost));
  EXPECT_FALSE(DecideMayComeBack(MoveState::kSetup, lost));
  EXPECT_FALSE(DecideMayComeBack(MoveState::kDevice, lost)) << "it may have given up, and will not copy again";
  Ending other = lost;
  other.said_why = true;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kActive, other)) << "it gave up";
  other = lost;
  other.ends_here = true;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kActive, other));
  other = lost;
  other.can_resume = false;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kActive, other)) << "as before";
  other = lost;
  other.lost = false;
  EXPECT_FALSE(DecideMayComeBack(MoveState::kActive, other)) << "what is wrong is here";
  for (const MoveState state : kStates) {
    EXPECT_EQ(MaySearchToCopy(state, true, false), state == MoveState::kActive) << MoveStateName(state);
    EXPECT_FALSE(MaySearchToCopy(state, false, false));
    EXPECT_FALSE(MaySearchToCopy(state, true, true));
  }
}

// R4.
TEST(DecisionsTest, SourceIsWaitedForWhileTheGuestRunsHereAndMayNeedIt) {
  EXPECT_TRUE(DecideMayComeBack(MoveState::kPostcopyActive, {.can_recover = true}));
  EXPECT_FALSE(DecideMayComeBack(MoveState::kPostcopyActive, {.can_recover = false}));
  EXPECT_FALSE(DecideMayComeBack(MoveState::kPostcopyActive, {.can_recover = true, .ends_here = true}));
  for (const MoveState state : kStates) {
    if (state != MoveState::kPostcopyActive && state != MoveState::kDevice) {
      EXPECT_FALSE(DecideMayComeBack(state, {.can_recover = true, .loaded = true, .lost = true}))
          << MoveStateName(state);
    }
  }
}

TEST(DecisionsTest, WaitHasNoEndWhilePagesAreMissing) {
  EXPECT_TRUE(MissesPages(MoveState::kPostcopyActive, false));
  EXPECT_TRUE(MissesPages(MoveState::kPostcopyPaused, false));
  EXPECT_FALSE(MissesPages(MoveState::kPostcopyActive, true));
  EXPECT_FALSE(MissesPages(MoveState::kDevice, false));
  EXPECT_FALSE(MissesPages(MoveState::kActive, false));
}

TEST(DecisionsTest, WhoHasLoadedRefuses) {
  EXPECT_EQ(DecideLastWord(true, true), LastWord::kRefuse);
  EXPECT_EQ(DecideLastWord(true, false), LastWord::kError);
  EXPECT_EQ(DecideLastWord(false, true), LastWord::kNone);
  EXPECT_EQ(DecideLastWord(false, false), LastWord::kNone);
}

}  // namespace
}  // namespace ferrite::migration
