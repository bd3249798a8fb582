// The threads of an arrival that read its page and urgent channels.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "memory/page_range.h"
#include "migration/session/arrival/arrival.h"

namespace ferrite::migration {

// A thread for each page channel; an error of one breaks the link, but for one that is lost while the guest runs here
// and others live: the source hears what is missing. `live`: the guest may run by now.
absl::Status StartReceivers(Arrival& arrival, bool live);

// All is here, and nothing comes over the page channels of a source that came back. It may lose one all the same, and
// waits for the word of what is missing.
void ReceiveNothing(Arrival& arrival);

// Serves the guest's faults over the urgent channels, or without the source where there are none; in place of who did.
// `asks_again`: what was asked for over a connection that is gone, too.
absl::Status ServeFaults(Arrival& arrival, bool asks_again);

// Tells `tell` what is not here, in pieces of at most kMaxRanges and at least one: whole units of memory. What comes
// meanwhile may be told or not.
absl::Status TellMissing(const Arrival& arrival,
                         absl::FunctionRef<absl::Status(std::vector<PageRange> missing, bool last)> tell);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_CHANNELS_H_
