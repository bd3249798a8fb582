// The states of a move and the one way to change them.
#ifndef FERRITE_MIGRATION_API_MOVE_STATE_H_
#define FERRITE_MIGRATION_API_MOVE_STATE_H_

#include <atomic>
#include <initializer_list>

#include "absl/strings/string_view.h"

namespace ferrite::migration {

// The names are QEMU's (MigrationStatus), as docs/move.md lists them.
enum class MoveState {
  kNone,
  kSetup,
  kActive,
  kDevice,
  kPostcopyActive,
  kPostcopyPaused,
  kPostcopyRecover,
  kCompleted,
  kFailing,
  kFailed,
  kCancelling,
  kCancelled,
};
absl::string_view MoveStateName(MoveState state);

// Whether a move may go from `from` to `to`:
//
//   none → cancelled, before it began
//   none → setup → active → device → postcopy-active → completed
//   setup, active, device → failing → failed,  cancelling → cancelled
//   postcopy-active → postcopy-paused ⇄ postcopy-recover → postcopy-active
//   postcopy-active → failing                  (GRANT did not go out after all, or the destination refused it)
//   postcopy-recover → failing                 (likewise, or a person took the guest back)
//
// postcopy-active begins with GRANT, also in a move without post-copy: there its phase is short.
bool IsAllowed(MoveState from, MoveState to);

// Whether nothing follows.
bool IsFinal(MoveState state);

// The state of one move. Threads: any. A change is one compare-and-swap from the state that its author believes in, so
// that of a completion, a failure and a cancel at the same moment exactly one wins, and the others know that they lost.
class MoveStateMachine {
 public:
  MoveState get() const { return state_.load(std::memory_order_acquire); }
  // False when the state is not `from` any more. A change that IsAllowed() does not know is our own mistake.
  bool Change(MoveState from, MoveState to);
  // The same from whichever of `from` the state is; they are tried in this order, so that those of one way come in the
  // way's order: a state that goes on meanwhile is then met further on.
  bool ChangeFrom(std::initializer_list<MoveState> from, MoveState to);

 private:
  std::atomic<MoveState> state_{MoveState::kNone};
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MOVE_STATE_H_
