#include "migration/session/arrival/giving_up.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/connection_lost.h"
#include "migration/session/arrival/handover.h"
#include "migration/session/decisions.h"

namespace ferrite::migration {
namespace {

// How long to wait for the source's word of why a channel broke, when somebody here waits for the end.
constexpr absl::Duration kReasonGrace = absl::Milliseconds(100);

// What the source said of a failure comes before what was noticed of it here.
absl::Status WordsFor(Arrival& arrival, const absl::Status& reason) {
  ControlPeer* const peer = arrival.link.peer();
  if (peer == nullptr || !IsConnectionLost(reason)) {
    return reason;
  }
  // A source that gives up closes the page channels first, then takes its guest back, disks and all, and says why after
  // that. All this is not done yet, so that a cancel can still come, and ends the wait.
  peer->AwaitFailure(arrival.options.silence, &arrival.shared.cancel());
  peer->AwaitFailure(kReasonGrace);
  return peer->said_why() ? peer->failure() : reason;
}

// Tells the source, as far as it can be told.
void TellWhy(Arrival& arrival, const absl::Status& why) {
  ControlPeer* const peer = arrival.link.peer();
  if (peer == nullptr) {
    return;
  }
  const absl::Status told = CatchOutOfMemory([&] {
    const LastWord word = DecideLastWord(peer->failure().ok(), arrival.loaded);
    if (word == LastWord::kRefuse) {
      UntilThereIsMemory([&] { SendRefuse(arrival, why); });
    } else if (word == LastWord::kError) {
      peer->SendLastWords(why);
    }
    return absl::OkStatus();
  });
  peer->Shutdown(told.ok() ? why : told);
}

}  // namespace

absl::Status GiveUp(Arrival& arrival, const absl::Status& reason) {
  MoveStateMachine& state = arrival.shared.state();
  (void)state.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused);
  if (HasGuest(state.get())) {
    return CatchOutOfMemory([&] {
      return absl::Status(reason.code(), absl::StrCat(reason.message(), "; ", arrival.GuestWords(),
                                                      ", without the pages that are missing"));
    });
  }
  absl::Status why = reason;
  (void)CatchOutOfMemory([&] {
    why = WordsFor(arrival, reason);
    return absl::OkStatus();
  });
  (void)state.ChangeFrom({MoveState::kSetup, MoveState::kActive, MoveState::kDevice}, MoveState::kFailing);
  const bool cancelled = state.get() == MoveState::kCancelling;
  TellWhy(arrival, why);
  arrival.link.broken().Cancel(why);
  arrival.link.ShutChannelsDown();
  arrival.link.EndThreads();
  (void)arrival.undo.Run();
  arrival.AbandonParts();
  FERRITE_CHECK(cancelled ? state.Change(MoveState::kCancelling, MoveState::kCancelled)
                          : state.Change(MoveState::kFailing, MoveState::kFailed));
  return why;
}

}  // namespace ferrite::migration
