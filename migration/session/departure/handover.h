// GRANT and what follows it: the guest is the destination's.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_HANDOVER_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_HANDOVER_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Writes the grant down, then gives it: GRANT, RUNNING (R2). It is postcopy-active from here on: a cancel comes too
// late, and nothing but the destination's refusal makes this side run the guest.
absl::Status HandOver(Departure& departure);
// GRANT of Departure::epoch. `start`: of what counts as starting the guest.
absl::Status SendGrant(Departure& departure, MonotonicTime start, absl::Duration patience);

// Sends the rest, and waits for the destination's word that it has all of it: END, SHUT, HEARD (R10). Then it is
// completed.
absl::Status End(Departure& departure);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_HANDOVER_H_
