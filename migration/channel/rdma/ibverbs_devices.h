// The RDMA devices of this host: ibv_get_device_list(3), and what /sys/class/infiniband has of them.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DEVICES_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DEVICES_H_

#include <vector>

#include "absl/status/statusor.h"
#include "migration/channel/rdma/rdma_library.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// UNAVAILABLE where the kernel has no RDMA (ib_uverbs). A device that cannot be asked is there by its name. Threads:
// any.
absl::StatusOr<std::vector<VerbsDevice>> IbverbsDevices(const RdmaLibrary& library);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DEVICES_H_
