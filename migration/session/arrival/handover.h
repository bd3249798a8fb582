// How the guest becomes this side's: its state, then GRANT.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_HANDOVER_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_HANDOVER_H_

#include "absl/status/status.h"
#include "migration/protocol/messages.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// What has come of mirrored parts is on stable storage.
absl::Status FlushMirrored(Arrival& arrival);

// Loads the state, all of which is checked before any of it is applied (R7): LOADED. With post-copy, faults are served
// from before that.
absl::Status ApplyPackage(Arrival& arrival, const message::Package& package);

// Runs the guest (R2): postcopy-active, RUNNING. An error of the machine's is told with REFUSE: the guest never ran.
absl::Status TakeOver(Arrival& arrival, const message::Grant& grant);

// Says that the guest does not run here, and never will.
void SendRefuse(Arrival& arrival, const absl::Status& reason);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_HANDOVER_H_
