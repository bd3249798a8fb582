#include "migration/session/decisions.h"

namespace ferrite::migration {

Fallback AfterFailure(bool may_run_there) { return may_run_there ? Fallback::kStandStill : Fallback::kGoOnHere; }

bool MayRunAfterFailedGrant(bool refused) { return !refused; }

bool AnswersGrant(uint64_t running_epoch, uint64_t granted_epoch) { return running_epoch == granted_epoch; }

AfterStanding DecideAfterStanding(bool granted, bool ran_there) {
  if (granted) {
    return AfterStanding::kGoOn;
  }
  return ran_there ? AfterStanding::kContradiction : AfterStanding::kGrantAgain;
}

TakingBack DecideTakingBack(std::optional<bool> granted, bool ended, bool reached, bool force) {
  if (granted.value_or(false)) {
    return TakingBack::kHasGuest;
  }
  if (ended) {
    return TakingBack::kEnded;
  }
  if (granted.has_value()) {
    return TakingBack::kRevoke;
  }
  // It was there to be connected to: it may run the guest, or have GRANT before it.
  return reached && !force ? TakingBack::kNeedsForce : TakingBack::kOnWord;
}

bool MaySearch(MoveState state, bool can_recover) { return state == MoveState::kPostcopyPaused && can_recover; }

bool MaySearchToCopy(MoveState state, bool can_resume, bool said_why) {
  return state == MoveState::kActive && can_resume && !said_why;
}

OnGrant DecideOnGrant(bool same_move, bool loaded) {
  if (!same_move) {
    return OnGrant::kOtherMove;
  }
  return loaded ? OnGrant::kRun : OnGrant::kNotLoaded;
}

OnRecover DecideOnRecover(MoveState state, uint64_t granted_epoch, uint64_t epoch) {
  if (HasGuest(state)) {
    return epoch == granted_epoch ? OnRecover::kGranted : OnRecover::kWrongEpoch;
  }
  if (state == MoveState::kActive) {
    return epoch == 0 ? OnRecover::kCopying : OnRecover::kWrongEpoch;
  }
  return state == MoveState::kDevice ? OnRecover::kNotGranted : OnRecover::kOver;
}

bool DecideMayComeBack(MoveState state, const Ending& ending) {
  if (!ending.can_recover || ending.ends_here) {
    return false;
  }
  switch (state) {
    case MoveState::kActive:
      return ending.can_resume && ending.lost && !ending.said_why;
    case MoveState::kPostcopyActive:
      return true;
    case MoveState::kDevice:
      // Without a word of the source's: it may have sent GRANT.
      return ending.loaded && ending.lost && !ending.said_why;
    default:
      return false;
  }
}

bool MissesPages(MoveState state, bool settled) {
  return !settled && state != MoveState::kDevice && state != MoveState::kActive;
}

bool HasGuest(MoveState state) {
  return state == MoveState::kPostcopyActive || state == MoveState::kPostcopyPaused ||
         state == MoveState::kPostcopyRecover;
}

LastWord DecideLastWord(bool connected, bool loaded) {
  if (!connected) {
    return LastWord::kNone;
  }
  return loaded ? LastWord::kRefuse : LastWord::kError;
}

}  // namespace ferrite::migration
