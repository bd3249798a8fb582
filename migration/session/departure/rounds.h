// Pre-copy: memory is sent while the guest runs at the source, and what it writes meanwhile again.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_ROUNDS_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_ROUNDS_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "migration/sending/pending_pages.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Rounds until what is left is little enough, or comes behind the switchover: Departure::postcopy says which.
absl::Status Rounds(Departure& departure);

// The next round over all channels, until `stop` says so; the guest runs, or is stopped with `last`.
absl::Status SendRound(Departure& departure, absl::FunctionRef<bool()> stop, bool last,
                       RoundPages pages = RoundPages::kAll, WhichParts parts = WhichParts::kAll);
// Until the destination has all that was sent.
absl::Status AwaitArrival(Departure& departure);
// The same without waiting for it, where a connection may be lost: the answer to what was asked before is awaited.
absl::Status AskForArrival(Departure& departure);
// Waits for an answer that is due.
absl::Status AwaitAnswer(Departure& departure);
// The error that ends the rounds, once they are to end.
absl::Status CheckGoingOn(Departure& departure);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_ROUNDS_H_
