// An arrival whose guest runs here, until all of its memory is here and the source knows.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_SETTLING_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_SETTLING_H_

#include "absl/status/status.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// Waits for the pages that are missing, gives the memory its usual properties, and says so: SHUT, HEARD (R10). Begins
// where the last one ended, after a recovery.
absl::Status ReceiveTheRest(Arrival& arrival);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_SETTLING_H_
