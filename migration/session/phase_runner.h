// The one place where a move goes from phase to phase.
#ifndef FERRITE_MIGRATION_SESSION_PHASE_RUNNER_H_
#define FERRITE_MIGRATION_SESSION_PHASE_RUNNER_H_

#include <functional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/api/move_state.h"

namespace ferrite::migration {

// Threads: that of the move.
class PhaseRunner {
 public:
  struct Phase {
    absl::string_view name;  // for messages: "pre-copy"
    MoveState from = MoveState::kNone;
    MoveState to = MoveState::kNone;  // the phase's own; `from` when it goes on in the same state
  };

  // `on_change` is called when a phase has changed the state; may be empty.
  PhaseRunner(MoveStateMachine& state, std::function<void()> on_change)
      : state_(state), on_change_(std::move(on_change)) {}

  // Goes to the phase's state and does `body`. CANCELLED when somebody else has changed the state: the phase did not
  // begin. An error of the body's, also that of an allocation that failed, is given the phase's name.
  absl::Status Run(const Phase& phase, absl::FunctionRef<absl::Status()> body);

 private:
  MoveStateMachine& state_;
  const std::function<void()> on_change_;
};

// What `body` returns; how long it took by `clock` comes to `took`.
absl::Status Timed(const Clock& clock, absl::Duration& took, absl::FunctionRef<absl::Status()> body);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_PHASE_RUNNER_H_
