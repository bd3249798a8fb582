// The switchover: the guest stops at the source, and its state goes over.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_SWITCHOVER_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_SWITCHOVER_H_

#include "absl/status/status.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// What the destination holds and is out of date by now is told while the guest still runs, for a switchover that leaves
// memory behind: only what it writes in the last instants is to be told while it stands still.
absl::Status TellStaleEarly(Departure& departure);

// Until the destination has loaded the state: DISCARD, ROUND, PACKAGE, LOADED. The guest stands still from here on,
// which is watched: DEADLINE_EXCEEDED when it takes a multiple of what was to be expected.
absl::Status SwitchOver(Departure& departure);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_SWITCHOVER_H_
