// The source's side of a move (docs/move.md).
#ifndef FERRITE_MIGRATION_SESSION_SOURCE_H_
#define FERRITE_MIGRATION_SESSION_SOURCE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/api/host.h"
#include "migration/api/move_options.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/api/source_machine.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/departure/departure.h"
#include "migration/session/departure/departure_shared.h"

namespace ferrite::migration {

// One move, made once and run once: what everybody may know of it, and do to it. What only the thread of Run() knows is
// in its Departure.
//
// After Run() returned
//   OK          the destination runs the guest, has all of it and has said so (R10); HandoverRecord::Moved() was
//   called; an error    and state() is failed or cancelled: the guest is at the source as it was (R3), or was ended
//   meanwhile,
//               and another move may follow. The Status does not say which: the machine knows;
//   an error    and state() is postcopy-paused: GRANT went out, the destination may run the guest; this side keeps it
//               paused, with all its memory, and never resumes by itself (R2, R4). Recover() tries to go on,
//               TakeBack() ends it.
//
// Threads: Run(), Recover() and TakeBack() one at a time; the rest from any, at any time.
class Source {
 public:
  // `host` and `machine` outlive it. `on_progress` (may be null) is called on the thread of Run(), at each change of
  // state and after each round.
  static absl::StatusOr<std::unique_ptr<Source>> Create(const Host& host, SourceMachine& machine,
                                                        const MoveOptions& options,
                                                        std::function<void(const MoveProgress&)> on_progress);

  // `destination` opens the channels; TakeBack() uses it, too. When a connection is lost behind GRANT, it looks for the
  // destination again for MoveOptions::recover_for.
  absl::Status Run(std::shared_ptr<ChannelOpener> destination);
  // As Run(), for a move that is postcopy-paused: compares with the destination, and sends what is missing there (R4).
  absl::Status Recover(std::shared_ptr<ChannelOpener> destination);
  // For a move that is postcopy-paused: the guest runs here again, as it was when it was handed over.
  // FAILED_PRECONDITION when the destination says that it has the guest, UNAVAILABLE when it can be connected to but
  // does not answer, unless `force`. A destination that cannot be connected to is believed to be gone: only a person
  // can know that (docs/move.md).
  absl::Status TakeBack(bool force);
  // Ends the looking for the destination.
  void Leave();
  // Gives up what the destination may still need from here: the connections are closed, and a guest that went over and
  // misses pages is lost. Run() returns as after a connection that was lost for good.
  void Abandon();

  // FAILED_PRECONDITION after GRANT.
  absl::Status Cancel();
  // Ends the rounds as soon as may be. FAILED_PRECONDITION when the destination cannot serve faults, or it is too late.
  absl::Status StartPostcopy();

  MoveState state() const { return shared_->state().get(); }
  // Where the destination is, or was last.
  std::string where() const { return shared_->where(); }
  // Whether the destination was heard to have taken the guest.
  bool ran_there() const { return shared_->ran_there; }
  MoveProgress progress() const { return shared_->progress(); }
  // Complete when Run() returned.
  MoveReport report() const { return shared_->report(); }

 private:
  Source(std::unique_ptr<DepartureShared> shared, std::unique_ptr<Departure> departure)
      : shared_(std::move(shared)), departure_(std::move(departure)) {}

  absl::Status RunPhases();
  absl::Status Finished(const absl::Status& status);
  // Which were used, in the report.
  void TellChannels();

  const std::unique_ptr<DepartureShared> shared_;
  const std::unique_ptr<Departure> departure_;  // of Run(), Recover() and TakeBack()
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_SOURCE_H_
