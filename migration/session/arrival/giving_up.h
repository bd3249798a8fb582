// How an arrival that failed or was cancelled ends.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_GIVING_UP_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_GIVING_UP_H_

#include "absl/status/status.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// The guest never runs here: failed, or cancelled; or it does, and misses pages (R4): postcopy-paused. Returns what
// there is to say of it: `reason`, in the words of who knows best.
absl::Status GiveUp(Arrival& arrival, const absl::Status& reason);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_GIVING_UP_H_
