// What `ferrite doctor` finds out about RDMA.
#ifndef FERRITE_VMM_APP_RDMA_PROBE_H_
#define FERRITE_VMM_APP_RDMA_PROBE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "migration/channel/rdma/verbs.h"
#include "vmm/app/doctor.h"

namespace ferrite {

// The devices, what they can register, and whether they page on demand. Why there are none, where there are none.
std::vector<Finding> ProbeRdma();
std::vector<Finding> RdmaFindings(const absl::StatusOr<std::vector<migration::VerbsDevice>>& devices);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RDMA_PROBE_H_
