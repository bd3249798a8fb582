#include "migration/api/move_state.h"

#include <algorithm>

#include "base/status.h"

namespace ferrite::migration {

absl::string_view MoveStateName(MoveState state) {
  switch (state) {
    case MoveState::kNone:
      return "none";
    case MoveState::kSetup:
      return "setup";
    case MoveState::kActive:
      return "active";
    case MoveState::kDevice:
      return "device";
    case MoveState::kPostcopyActive:
      return "postcopy-active";
    case MoveState::kPostcopyPaused:
      return "postcopy-paused";
    case MoveState::kPostcopyRecover:
      return "postcopy-recover";
    case MoveState::kCompleted:
      return "completed";
    case MoveState::kFailing:
      return "failing";
    case MoveState::kFailed:
      return "failed";
    case MoveState::kCancelling:
      return "cancelling";
    case MoveState::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

bool IsAllowed(MoveState from, MoveState to) {
  switch (from) {
    case MoveState::kNone:
      return to == MoveState::kSetup || to == MoveState::kCancelled;
    case MoveState::kSetup:
      return to == MoveState::kActive || to == MoveState::kFailing || to == MoveState::kCancelling;
    case MoveState::kActive:
      return to == MoveState::kDevice || to == MoveState::kFailing || to == MoveState::kCancelling;
    case MoveState::kDevice:
      return to == MoveState::kPostcopyActive || to == MoveState::kFailing || to == MoveState::kCancelling;
    case MoveState::kPostcopyActive:
      return to == MoveState::kCompleted || to == MoveState::kPostcopyPaused || to == MoveState::kFailing;
    case MoveState::kPostcopyPaused:
      return to == MoveState::kPostcopyRecover;
    case MoveState::kPostcopyRecover:
      return to == MoveState::kPostcopyActive || to == MoveState::kPostcopyPaused || to == MoveState::kFailing;
    case MoveState::kFailing:
      return to == MoveState::kFailed;
    case MoveState::kCancelling:
      return to == MoveState::kCancelled;
    case MoveState::kCompleted:
    case MoveState::kFailed:
    case MoveState::kCancelled:
      return false;
  }
  return false;
}

bool IsFinal(MoveState state) {
  return state == MoveState::kCompleted || state == MoveState::kFailed || state == MoveState::kCancelled;
}

bool MoveStateMachine::Change(MoveState from, MoveState to) {
  FERRITE_CHECK(IsAllowed(from, to));
  return state_.compare_exchange_strong(from, to, std::memory_order_acq_rel);
}

bool MoveStateMachine::ChangeFrom(std::initializer_list<MoveState> from, MoveState to) {
  return std::any_of(from.begin(), from.end(), [this, to](MoveState state) { return Change(state, to); });
}

}  // namespace ferrite::migration
