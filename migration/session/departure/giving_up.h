// How a departure that failed or was cancelled ends.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_

#include "absl/status/status.h"
#include "migration/session/departure/departure.h"

namespace ferrite::migration {

// Undoes what was done, so that the guest is as it was before (R3): failed, or cancelled. Behind GRANT it only stands
// still (R2, R4): postcopy-paused. Returns what there is to say of it: `reason`, in the words of who knows best.
absl::Status GiveUp(Departure& departure, const absl::Status& reason);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_GIVING_UP_H_
