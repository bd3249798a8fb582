#include "migration/session/source.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/lock_clock.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/thread_class.h"
#include "migration/api/remedy.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/session/departure/giving_up.h"
#include "migration/session/departure/handover.h"
#include "migration/session/departure/handshake.h"
#include "migration/session/departure/recovery.h"
#include "migration/session/departure/rounds.h"
#include "migration/session/departure/switchover.h"
#include "migration/session/phase_runner.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<Source>> Source::Create(const Host& host, SourceMachine& machine,
                                                       const MoveOptions& options,
                                                       std::function<void(const MoveProgress&)> on_progress) {
  if (options.channels < 1 || options.channels > kMaxChannels) {
    return absl::InvalidArgumentError(
        absl::StrCat("a move has 1 to ", kMaxChannels, " page channels, not ", options.channels));
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<DepartureShared> shared,
                           DepartureShared::Create(host.clock, std::move(on_progress)));
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Departure> departure, Departure::Create(host, machine, options, *shared));
  return std::unique_ptr<Source>(new Source(std::move(shared), std::move(departure)));
}

absl::Status Source::Run(std::shared_ptr<ChannelOpener> destination) {
  Departure& departure = *departure_;
  departure.opener = std::move(destination);
  shared_->TellWhere(departure.opener->where());
  departure.started = departure.Now();
  if (!shared_->state().Change(MoveState::kNone, MoveState::kSetup)) {
    return absl::CancelledError("the move was cancelled");
  }
  departure.Publish();
  absl::Status status = CatchOutOfMemory([&] { return RunPhases(); });
  if (!status.ok()) {
    const absl::Status given_up = GiveUp(departure, status);
    status = CatchOutOfMemory([&] { return KeepTrying(departure, departure.opener, given_up); });
  }
  return Finished(status);
}

absl::Status Source::RunPhases() {
  using enum MoveState;
  Departure& departure = *departure_;
  PhaseRunner phases(shared_->state(), [&departure] { departure.Publish(); });
  // Takes time that nobody is to wait for, long before the guest stands still.
  FERRITE_ASSIGN_OR_RETURN(
      departure.beside, departure.host.threads.Start("mig-src-beside", ThreadClass::kBulk, [&departure] {
        WarmLockClock();
        IfThereIsMemory([&departure] { departure.huge_bytes = departure.machine.memory().HugeBytes(); });
      }));
  const auto run = [&](const PhaseRunner::Phase& phase, absl::FunctionRef<absl::Status()> body) {
    return phases.Run(phase, body);
  };
  FERRITE_RETURN_IF_ERROR(run({"setup", kSetup, kSetup}, [&] { return Setup(departure); }));
  FERRITE_RETURN_IF_ERROR(run({"advise", kSetup, kSetup}, [&] { return Advise(departure); }));
  FERRITE_RETURN_IF_ERROR(run({"pre-copy", kSetup, kActive}, [&] { return Rounds(departure); }));
  const Urgency urgency;
  FERRITE_RETURN_IF_ERROR(run({"switchover", kActive, kDevice}, [&] { return SwitchOver(departure); }));
  // HandOver() itself goes on to postcopy-active: nobody is told before the guest runs there.
  FERRITE_RETURN_IF_ERROR(run({"switchover", kDevice, kDevice}, [&] { return HandOver(departure); }));
  return run({departure.postcopy ? "post-copy" : "end", kPostcopyActive, kPostcopyActive},
             [&] { return End(departure); });
}

void Source::TellChannels() {
  const ChannelTurns& turns = *departure_->turns;
  MoveReport& report = departure_->report;
  report.channels = static_cast<uint32_t>(turns.used());
  report.open_channels = static_cast<uint32_t>(departure_->options.channels);
  report.counted_channels = turns.counted();
  const std::vector<double> rates = turns.rates();
  report.channel_rates.assign(rates.begin(), rates.end());
}

absl::Status Source::Finished(const absl::Status& status) {
  // The guest does not wait for this any more, wherever it is.
  departure_->beside.Join();
  departure_->report.huge_bytes = departure_->huge_bytes;
  IfThereIsMemory([this] { departure_->report.parts = departure_->progress.parts; });
  IfThereIsMemory([this] { TellChannels(); });
  departure_->report.total = departure_->Now() - departure_->started;
  // Nobody learns how it went when there is no memory for it.
  IfThereIsMemory([this] { shared_->TellReport(departure_->report); });
  if (IsFinal(state())) {
    // Threads and descriptors are not kept until the next move.
    departure_->link.Close();
  }
  departure_->Publish();
  return status;
}

absl::Status Source::Recover(std::shared_ptr<ChannelOpener> destination) {
  if (state() != MoveState::kPostcopyPaused) {
    return absl::FailedPreconditionError(
        absl::StrCat("there is nothing to recover: the move is ", MoveStateName(state())));
  }
  if ((departure_->features & kFeatureRecovery) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the monitor at ", where(), " is of a version that cannot go on after a lost connection"));
  }
  shared_->leave().Renew();
  return Finished(CatchOutOfMemory([&] { return KeepTrying(*departure_, destination, absl::OkStatus()); }));
}

absl::Status Source::TakeBack(bool force) {
  shared_->leave().Renew();
  absl::Status status = migration::TakeBack(*departure_, force);
  if (IsFinal(state())) {
    departure_->link.Close();
  }
  return status;
}

void Source::Leave() {
  UntilThereIsMemory(
      [this] { shared_->leave().Cancel(absl::CancelledError("the search for the destination was ended")); });
}

void Source::Abandon() {
  UntilThereIsMemory(
      [this] { shared_->abandon().Cancel(absl::CancelledError("the guest's memory was given up here")); });
  Leave();
}

absl::Status Source::Cancel() {
  MoveStateMachine& state = shared_->state();
  if (state.Change(MoveState::kNone, MoveState::kCancelled)) {
    return absl::OkStatus();
  }
  if (state.ChangeFrom({MoveState::kSetup, MoveState::kActive, MoveState::kDevice}, MoveState::kCancelling)) {
    // What was begun is done: nobody asks again. The destination is told when the guest is this side's again.
    UntilThereIsMemory([this] { shared_->cancel().Cancel(absl::CancelledError("cancelled")); });
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the move cannot be cancelled any more: it is ", MoveStateName(state.get())));
}

absl::Status Source::StartPostcopy() {
  if (const MoveState now = state(); now != MoveState::kActive) {
    return absl::FailedPreconditionError(absl::StrCat("the move is not in its rounds, but ", MoveStateName(now)));
  }
  if (!shared_->postcopy_possible) {
    return WithRemedy(absl::FailedPreconditionError("the destination cannot do post-copy"), Remedy::kLookAtTheirHost);
  }
  shared_->postcopy_wanted = true;
  return absl::OkStatus();
}

}  // namespace ferrite::migration
