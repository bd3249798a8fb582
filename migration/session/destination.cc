#include "migration/session/destination.h"

#include <optional>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/cancel_token.h"
#include "base/lock_clock.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/channel/connection_lost.h"
#include "migration/session/arrival/channels.h"
#include "migration/session/arrival/giving_up.h"
#include "migration/session/arrival/handshake.h"
#include "migration/session/arrival/receiving.h"
#include "migration/session/arrival/recovery.h"
#include "migration/session/arrival/settling.h"
#include "migration/session/door.h"
#include "migration/session/phase_runner.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<Destination>> Destination::Create(const Host& host, MachineBuilder& builder,
                                                                 Options options) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<ArrivalShared> shared, ArrivalShared::Create(host.clock));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Arrival> arrival,
                           Arrival::Create(host, builder, std::move(options), *shared));
  return std::unique_ptr<Destination>(new Destination(builder, std::move(shared), std::move(arrival)));
}

absl::Status Destination::Run(ChannelAcceptor& acceptor) {
  if (!shared_->state().Change(MoveState::kNone, MoveState::kSetup)) {
    return absl::CancelledError("cancelled");
  }
  acceptor.SetOnDropped([this](const std::string& who, absl::string_view why) { arrival_->drops.Log(who, why); });
  const absl::Cleanup hear_no_more = [&acceptor] { acceptor.SetOnDropped(nullptr); };
  const absl::Status status = CatchOutOfMemory([&] { return RunPhases(acceptor); });
  return status.ok() ? status : GiveUp(*arrival_, status);
}

absl::Status Destination::RunPhases(ChannelAcceptor& acceptor) {
  using enum MoveState;
  Arrival& arrival = *arrival_;
  PhaseRunner phases(shared_->state(), nullptr);
  // Nobody has come yet.
  WarmLockClock();
  FERRITE_RETURN_IF_ERROR(AwaitMachine(arrival, acceptor));
  FERRITE_RETURN_IF_ERROR(phases.Run({"setup", kSetup, kSetup}, [&] { return AcceptChannels(arrival, acceptor); }));
  // From here on the whole time: behind GRANT nothing is made that may be missing then.
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Doorman> doorman, Doorman::Create(arrival.host, acceptor, arrival.terms.id,
                                                                             arrival.credentials, arrival.drops));
  FERRITE_RETURN_IF_ERROR(phases.Run({"advise", kSetup, kSetup}, [&] { return Prepare(arrival); }));
  FERRITE_RETURN_IF_ERROR(phases.Run({"pre-copy", kSetup, kActive}, [&] {
    arrival.peer().SetSilence(arrival.options.silence);
    return StartReceivers(arrival, /*live=*/false);
  }));
  const Urgency urgency;
  // What comes of a message is told with the phase that it belongs to.
  const absl::Status status = Receive(acceptor, std::move(doorman));
  if (!arrival.settled) {
    return status;
  }
  if (!status.ok()) {
    // The guest came whole; the source stays paused until a person tells it so.
    IfThereIsMemory([&] {
      arrival.host.log.Warn(
          absl::StrCat("receive: ", arrival.GuestWords(), ", but the source could not be told: ", status.message()));
    });
  }
  FERRITE_CHECK(shared_->state().Change(kPostcopyActive, kCompleted));
  return absl::OkStatus();
}

absl::Status Destination::Receive(ChannelAcceptor& acceptor, std::unique_ptr<Doorman> doorman) {
  Arrival& arrival = *arrival_;
  while (true) {
    // Also after a source that was copying has come back.
    absl::Status status = CatchOutOfMemory([&] { return ReceiveUntilRunning(arrival); });
    if (status.ok()) {
      status = CatchOutOfMemory([&] { return ReceiveTheRest(arrival); });
    }
    if (status.ok() || !MayComeBack(arrival, status)) {
      return status;
    }
    doorman.reset();
    IfThereIsMemory([&] {
      arrival.host.log.Warn(absl::StrCat("receive: ", status.message(), "; waiting for the source to come back"));
    });
    if (!IsConnectionLost(status)) {
      // What went wrong is not the connection: a person at the source is to read it.
      arrival.peer().SendLastWords(status);
    }
    if (const absl::Status back = Recover(arrival, acceptor); !back.ok()) {
      // Why the connection was lost says more than that nobody came back.
      return arrival.revoked ? back : status;
    }
    // The move can do without.
    IfThereIsMemory([&] {
      if (auto another = Doorman::Create(arrival.host, acceptor, arrival.terms.id, arrival.credentials, arrival.drops);
          another.ok()) {
        doorman = *std::move(another);
      } else {
        arrival.host.log.Warn(absl::StrCat("receive: other sources are not answered: ", another.status().message()));
      }
    });
  }
}

void Destination::Compact(absl::FunctionRef<bool()> stop) {
  shared_->figures().compacted_blocks = arrival_->memory->Compact(stop);
  if (!stop()) {
    shared_->figures().huge_bytes = arrival_->memory->HugeBytes();
  }
}

void Destination::Leave() {
  UntilThereIsMemory([this] { shared_->leave().Cancel(absl::CancelledError("the wait for the source was ended")); });
}

absl::Status Destination::Cancel() {
  MoveStateMachine& state = shared_->state();
  if (state.Change(MoveState::kNone, MoveState::kCancelled)) {
    return absl::OkStatus();
  }
  if (state.ChangeFrom({MoveState::kSetup, MoveState::kActive, MoveState::kDevice}, MoveState::kCancelling)) {
    // What was begun is done: nobody asks again.
    UntilThereIsMemory([this] {
      builder_.Cancelled();
      shared_->cancel().Cancel(absl::CancelledError("cancelled"));
    });
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the move cannot be cancelled any more: it is ", MoveStateName(state.get())));
}

}  // namespace ferrite::migration
