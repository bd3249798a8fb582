// The threads of an arrival that read its page and urgent channels.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_

#include "absl/status/status.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// A thread for each page channel; an error of one breaks the link. `live`: the guest may run by now.
absl::Status StartReceivers(Arrival& arrival, bool live);

// Serves the guest's faults over the urgent channels, or without the source where there are none; in place of who did.
// `asks_again`: what was asked for over a connection that is gone, too.
absl::Status ServeFaults(Arrival& arrival, bool asks_again);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_
