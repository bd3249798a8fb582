#include "migration/session/departure/handover.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"
#include "migration/session/decisions.h"

namespace ferrite::migration {
namespace {

// How long it may take to find that it has everything, and to lock its memory, in times of MoveOptions::silence.
constexpr int kShutFactor = 12;

}  // namespace

absl::Status HandOver(Departure& departure) {
  if (!departure.shared.state().Change(MoveState::kDevice, MoveState::kPostcopyActive)) {
    return absl::CancelledError("cancelled");
  }
  const MonotonicTime start = departure.Now();
  FERRITE_RETURN_IF_ERROR(
      departure.machine.handover().RecordGrant(departure.id, departure.epoch, departure.shared.where()));
  if (departure.peer().refused()) {
    // That takes what the disk takes, and the destination has given up meanwhile.
    return departure.peer().failure();
  }
  departure.may_run_there = true;
  departure.shared.TellGranted();
  if (departure.serving && departure.can_have_fewer()) {
    departure.link.HearOfBroken();
  }
  FERRITE_RETURN_IF_ERROR(SendGrant(departure, start, departure.options.patience));
  if (departure.serving) {
    departure.pages().StartRest();
  }
  return absl::OkStatus();
}

absl::Status SendGrant(Departure& departure, MonotonicTime start, absl::Duration patience) {
  const auto grant = [&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(departure.peer().Send(message::Grant{.move_id = departure.id, .epoch = departure.epoch}));
    FERRITE_ASSIGN_OR_RETURN(const message::Running running, departure.peer().Expect<message::Running>(patience));
    return AnswersGrant(running.epoch, departure.epoch)
               ? absl::OkStatus()
               : absl::InvalidArgumentError(
                     absl::StrCat("RUNNING: epoch ", running.epoch, ", but GRANT was of epoch ", departure.epoch));
  };
  if (const absl::Status running = grant(); !running.ok()) {
    if (absl::IsUnavailable(running)) {
      // One that refused and closed may not have been heard yet.
      departure.peer().AwaitFailure(kReasonGrace);
    }
    departure.may_run_there = MayRunAfterFailedGrant(departure.peer().refused());
    return running;
  }
  departure.shared.ran_there = true;
  const MonotonicTime runs = departure.Now();
  departure.report.run = runs - start;
  departure.report.downtime = runs - departure.switchover;
  departure.report.source_wait = departure.delays->Read();
  departure.Publish(Departure::Rate::kFromHere);
  return absl::OkStatus();
}

absl::Status End(Departure& departure) {
  if (departure.serving) {
    FERRITE_RETURN_IF_ERROR(departure.pages().FinishRest());
  }
  ControlPeer& peer = departure.peer();
  FERRITE_RETURN_IF_ERROR(peer.Send(message::End{}));
  FERRITE_ASSIGN_OR_RETURN(message::Shut shut, peer.Expect<message::Shut>(kShutFactor * departure.options.silence));
  MoveReport& report = departure.report;
  report.rounds = departure.rounds_so_far();
  report.faults = shut.figures.faults;
  report.minor_faults = shut.figures.minor_faults;
  report.duplicate_pages = shut.figures.duplicate_pages;
  report.waiting = std::move(shut.figures.waiting);
  report.destination_wait = shut.figures.host_wait;
  report.entry_wait = shut.figures.entry_wait;
  if (!shut.ok) {
    return absl::AbortedError(absl::StrCat("the destination says: ", CleanText(shut.message)));
  }
  if ((departure.features & kFeatureRecovery) != 0) {
    // Nothing depends on it: a destination that does not hear it waits a little longer.
    (void)peer.Send(message::Heard{});
  }
  FERRITE_CHECK(departure.shared.state().Change(MoveState::kPostcopyActive, MoveState::kCompleted));
  // Whatever fails from here on, the guest is over there.
  departure.undo.Drop();
  UntilThereIsMemory([&] {
    departure.StopTracking();
    departure.machine.handover().Moved(departure.shared.where());
    // The destination waits for this: it has been heard.
    departure.pages().Shutdown();
    peer.Shutdown(absl::CancelledError("the move is over"));
  });
  return absl::OkStatus();
}

}  // namespace ferrite::migration
