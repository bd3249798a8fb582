// An arrival until the guest runs here.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVING_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVING_H_

#include "absl/status/status.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// What the source says from its first round to GRANT, in the order in which it says it: ROUND, DISCARD, PACKAGE, GRANT.
absl::Status ReceiveUntilRunning(Arrival& arrival);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVING_H_
