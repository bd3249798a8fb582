// The destination's side of a move (docs/move.md): receives one machine, and runs it only after GRANT.
#ifndef FERRITE_MIGRATION_SESSION_DESTINATION_H_
#define FERRITE_MIGRATION_SESSION_DESTINATION_H_

#include <memory>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/api/destination_machine.h"
#include "migration/api/host.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/channel/rendezvous.h"
#include "migration/session/arrival/arrival.h"
#include "migration/session/arrival/arrival_options.h"
#include "migration/session/arrival/arrival_shared.h"
#include "migration/session/door.h"

namespace ferrite::migration {

// One incoming move, made once and run once: what everybody may know of it, and do to it. Until a machine was accepted
// it waits, whoever came and left meanwhile. What only the thread of Run() knows is in its Arrival.
//
// After Run() returned
//   OK          the guest runs here, all of its memory is here, and the source was told so;
//   an error    and state() is failed or cancelled: the guest never ran here;
//   an error    and state() is postcopy-paused: the guest runs here, but pages are missing (R4): whoever touches one
//               waits, until this object is destroyed. Run() returns so only after Leave(): until then it waits for
//               the source to come back.
//
// Threads: Run() on one; the rest from any.
class Destination {
 public:
  using Options = ArrivalOptions;

  // `host` and `builder` outlive it.
  static absl::StatusOr<std::unique_ptr<Destination>> Create(const Host& host, MachineBuilder& builder,
                                                             Options options);

  // Waits for a source that comes to `acceptor`, and receives. Connections that are no move's are dropped and logged,
  // and so are sources that leave before their machine was accepted, or whose machine is refused: they hear why.
  absl::Status Run(ChannelAcceptor& acceptor);

  // Ends a move that was not granted; FAILED_PRECONDITION later.
  absl::Status Cancel();
  // From here on a source that is gone is not waited for, now or later. A move that goes well goes on: its pages are
  // waited for while they come, for 30 s at most.
  void Leave();

  // After Run() returned OK: blocks of memory that came in pieces become huge pages again, where it is to have them,
  // until `stop` returns true. Takes a millisecond or so for each of 2 MiB, while the guest runs. The report tells what
  // became huge. On one thread.
  void Compact(absl::FunctionRef<bool()> stop);

  MoveState state() const { return shared_->state().get(); }
  // The guest was taken over here, and with `whole` all of its memory is here, too.
  bool HasGuest(bool whole) const { return shared_->HasGuest() && (!whole || shared_->whole); }
  // How long it has been here; zero before.
  absl::Duration has_guest_for() const { return shared_->has_guest_for(); }
  // What only this side can measure.
  MoveReport report() const { return shared_->report(); }

 private:
  Destination(MachineBuilder& builder, std::unique_ptr<ArrivalShared> shared, std::unique_ptr<Arrival> arrival)
      : builder_(builder), shared_(std::move(shared)), arrival_(std::move(arrival)) {}

  absl::Status RunPhases(ChannelAcceptor& acceptor);
  // From the first round to the end, over as many connections as it takes. `doorman` answers the door meanwhile.
  absl::Status Receive(ChannelAcceptor& acceptor, std::unique_ptr<Doorman> doorman);

  MachineBuilder& builder_;
  const std::unique_ptr<ArrivalShared> shared_;
  const std::unique_ptr<Arrival> arrival_;  // of Run()
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DESTINATION_H_
