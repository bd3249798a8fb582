#include "migration/session/departure/resuming.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/connection_lost.h"
#include "migration/protocol/messages.h"
#include "migration/session/decisions.h"
#include "migration/session/departure/giving_up.h"
#include "migration/session/departure/handshake.h"

namespace ferrite::migration {
namespace {

// Between two tries.
constexpr absl::Duration kPause = absl::Milliseconds(250);
// What a destination that was found has to answer in, however little is left of MoveOptions::recover_for.
constexpr absl::Duration kLeastToAnswer = absl::Seconds(1);
// Of a source that is copying, and of its channels: that of no GRANT.
constexpr uint64_t kNoGrant = 0;

absl::Status TryToResume(Departure& departure, absl::Duration limit) {
  FERRITE_ASSIGN_OR_RETURN(const bool granted, AskWhetherGranted(departure, *departure.opener, kNoGrant, limit));
  if (granted) {
    return absl::InvalidArgumentError("STANDING: the destination says that it has GRANT, which never went out");
  }
  return OpenPages(departure, kNoGrant, limit);
}

// What the connections had is as if they had never been.
void Forget(Departure& departure) {
  departure.link.Close();
  departure.EndOnCancel();
  departure.rounds += departure.round;
  departure.round = 0;
  departure.asked = false;
}

// What was asked for may have been answered before the connection was lost.
void HearAnswer(Departure& departure) {
  if (departure.asked && departure.peer().Expect<message::Discarded>(absl::ZeroDuration()).ok() &&
      departure.pages().Arrived()) {
    departure.lost_since.reset();
  }
}

// Nobody is held back while nothing goes.
absl::Status LetGo(Departure& departure) {
  departure.blocking.End();
  if (departure.progress.throttle_percent == 0) {
    return absl::OkStatus();
  }
  departure.progress.throttle_percent = 0;
  return departure.machine.run().SetThrottle(0);
}

}  // namespace

bool MayResume(Departure& departure, const absl::Status& failure) {
  if (!IsConnectionLost(failure) || departure.cancelled()) {
    return false;
  }
  departure.peer().AwaitFailure(kReasonGrace, &departure.shared.cancel());
  return MaySearchToCopy(departure.shared.state().get(), departure.can_resume(), departure.peer().said_why());
}

absl::Status Resume(Departure& departure, const absl::Status& lost) {
  FERRITE_RETURN_IF_ERROR(LetGo(departure));
  HearAnswer(departure);
  // It was found before, and lost again for nothing.
  const bool in_vain = departure.lost_since.has_value();
  departure.lost_since = departure.lost_since.value_or(departure.Now());
  const MonotonicTime until = *departure.lost_since + departure.options.recover_for;
  if (in_vain && departure.Now() >= until) {
    return lost;
  }
  if (in_vain) {
    (void)departure.shared.cancel().WaitFor(departure.host.clock, kPause);
  }
  FailedTries tries;
  while (true) {
    Forget(departure);
    FERRITE_RETURN_IF_ERROR(departure.link.broken().reason());
    departure.Publish();
    const absl::Duration limit =
        std::min(departure.options.patience, std::max(until - departure.Now(), kLeastToAnswer));
    const absl::Status now = CatchOutOfMemory([&] { return TryToResume(departure, limit); });
    if (now.ok()) {
      ++departure.report.recoveries;
      return absl::OkStatus();
    }
    if (departure.cancelled()) {
      return absl::CancelledError("cancelled");
    }
    ControlPeer* const peer = departure.link.peer();
    if (peer != nullptr && peer->said_why()) {
      // It has given the move up, or is another one.
      return absl::Status(lost.code(), absl::StrCat(lost.message(), ", and then: ", peer->failure().message()));
    }
    tries.Note(now);
    if (departure.Now() >= until) {
      return tries.After(lost);
    }
    (void)departure.shared.cancel().WaitFor(departure.host.clock, kPause);
  }
}

absl::Status TakeBackLost(Departure& departure) {
  return departure.pages().TakeBack(departure.copies_memory ? WhichParts::kAll : WhichParts::kMirrored);
}

}  // namespace ferrite::migration
