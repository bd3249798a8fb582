// RDMA in a monitor.
#ifndef FERRITE_VMM_MOVE_HOST_VERBS_H_
#define FERRITE_VMM_MOVE_HOST_VERBS_H_

#include "absl/status/statusor.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite {

// This host's, one for all moves of the process; it stays. UNAVAILABLE, with what to install, where there are none.
// Threads: any.
absl::StatusOr<migration::Verbs*> HostVerbs();

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_HOST_VERBS_H_
