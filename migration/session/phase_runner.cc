#include "migration/session/phase_runner.h"

#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite::migration {

absl::Status PhaseRunner::Run(const Phase& phase, absl::FunctionRef<absl::Status()> body) {
  if (phase.from != phase.to) {
    if (!state_.Change(phase.from, phase.to)) {
      return absl::CancelledError("cancelled");
    }
    if (on_change_) {
      on_change_();
    }
  }
  return Annotate(CatchOutOfMemory(body), phase.name);
}

absl::Status Timed(const Clock& clock, absl::Duration& took, absl::FunctionRef<absl::Status()> body) {
  const MonotonicTime start = clock.Now();
  absl::Status status = body();
  took = clock.Now() - start;
  return status;
}

}  // namespace ferrite::migration
