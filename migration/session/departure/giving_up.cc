#include "migration/session/departure/giving_up.h"

#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/api/remedy.h"
#include "migration/protocol/messages.h"
#include "migration/session/decisions.h"

namespace ferrite::migration {
namespace {

constexpr absl::string_view kStays = "; this side stays paused and keeps the guest's memory";

// What the other side said of a failure comes before what was noticed of it here.
absl::Status WordsFor(Departure& departure, const absl::Status& reason) {
  ControlPeer* const peer = departure.link.peer();
  // What this side lacks comes first: the other one may have noticed that its channels were closed for it. And so does
  // what a person can do.
  if (peer == nullptr || absl::IsResourceExhausted(reason) || RemedyOf(reason) != Remedy::kNone) {
    return reason;
  }
  if (absl::IsUnavailable(reason)) {
    peer->AwaitFailure(kReasonGrace);
  }
  return peer->said_why() ? peer->failure() : reason;
}

// The reason, which was told to the destination as far as it can be told.
absl::Status TellWhy(Departure& departure, const absl::Status& reason, bool cancelled) {
  const absl::Status why = cancelled ? reason : WordsFor(departure, reason);
  ControlPeer* const peer = departure.link.peer();
  if (peer != nullptr && cancelled) {
    (void)peer->SendBriefly(message::Cancel{.message = "cancelled"});
  } else if (peer != nullptr && peer->failure().ok()) {
    peer->SendLastWords(why);
  }
  return why;
}

absl::Status StandStill(Departure& departure, const absl::Status& reason) {
  const absl::Status why = CatchOutOfMemory([&] { return WordsFor(departure, reason); });
  MoveStateMachine& state = departure.shared.state();
  FERRITE_CHECK(state.Change(MoveState::kPostcopyActive, MoveState::kPostcopyPaused) ||
                state.Change(MoveState::kPostcopyRecover, MoveState::kPostcopyPaused));
  if (departure.link.pages() != nullptr) {
    departure.pages().Shutdown();
  }
  if (departure.link.peer() != nullptr) {
    departure.peer().Shutdown(why);
  }
  return CatchOutOfMemory([&] {
    return Reworded(why, absl::StrCat("the guest was handed over to ", departure.shared.where(),
                                      ", then: ", why.message(), departure.shared.abandon().cancelled() ? "" : kStays));
  });
}

}  // namespace

absl::Status GiveUp(Departure& departure, const absl::Status& reason) {
  if (AfterFailure(departure.may_run_there) == Fallback::kStandStill) {
    return StandStill(departure, reason);
  }
  MoveStateMachine& state = departure.shared.state();
  // Exactly one of Cancel() and this change wins.
  (void)state.ChangeFrom({MoveState::kSetup, MoveState::kActive, MoveState::kDevice, MoveState::kPostcopyActive,
                          MoveState::kPostcopyRecover},
                         MoveState::kFailing);
  const bool cancelled = state.get() == MoveState::kCancelling;
  const Urgency urgency;
  if (departure.link.pages() != nullptr) {
    departure.pages().Shutdown();
    (void)departure.pages().FinishRest();
  }
  // The guest first: words can wait.
  absl::Status undone;
  UntilThereIsMemory([&] {
    undone = departure.undo.Run();
    departure.link.DropPages();
  });
  const absl::Status why = CatchOutOfMemory([&] { return TellWhy(departure, reason, cancelled); });
  if (departure.link.peer() != nullptr) {
    departure.peer().Shutdown(why);
  }
  FERRITE_CHECK(cancelled ? state.Change(MoveState::kCancelling, MoveState::kCancelled)
                          : state.Change(MoveState::kFailing, MoveState::kFailed));
  return CatchOutOfMemory([&]() -> absl::Status {
    if (!undone.ok()) {
      return Reworded(
          why, absl::StrCat(why.message(), "; the guest did not go on here, since this failed: ", undone.message()));
    }
    return cancelled ? absl::CancelledError("the move was cancelled") : why;
  });
}

void FailedTries::Note(const absl::Status& why) {
  if (why.message() != last_.message()) {
    before_ = std::exchange(last_, why);
  }
}

absl::Status FailedTries::After(const absl::Status& lost) const {
  absl::string_view words = lost.message();
  const bool stays = absl::ConsumeSuffix(&words, kStays);
  std::string all(words);
  for (const absl::Status& why : {before_, last_}) {
    if (!why.ok() && !absl::StrContains(all, why.message())) {
      absl::StrAppend(&all, ", and then: ", why.message());
    }
  }
  return Reworded(lost, absl::StrCat(all, stays ? kStays : ""));
}

}  // namespace ferrite::migration
