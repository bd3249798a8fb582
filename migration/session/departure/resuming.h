// A departure whose connection was lost while the guest ran here and was copied.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_RESUMING_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_RESUMING_H_

#include "absl/status/status.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Whether `failure` of the copy phases is a lost connection, and the destination is to be looked for. Waits for its
// word of why, which may still be on its way.
bool MayResume(Departure& departure, const absl::Status& failure);

// Looks for the destination for MoveOptions::recover_for, since the connection was lost for the first time and nothing
// has arrived since. The guest runs on, and nobody waits. `lost`, or CANCELLED, when it was not found.
absl::Status Resume(Departure& departure, const absl::Status& lost);

// The first that goes over connections that were made again, which may be lost again: what may not have arrived over
// those before is pending, and what was written meanwhile; what is zero, or needed by nobody, and was not written, is
// told again.
absl::Status TakeBackLost(Departure& departure);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_RESUMING_H_
