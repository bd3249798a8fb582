// Verbs over libibverbs and librdmacm, of whatever device the host has.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/thread_maker.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// Deadlines are those of `clock`; what is under way between the devices they have timers of their own for. While a
// domain lives, a thread of `threads` ("mig-rdma-cm") takes the connection manager's events. Both outlive what is made.
// UNAVAILABLE, with what to install, where the libraries are not there; a host without a device says so in Open().
absl::StatusOr<std::unique_ptr<Verbs>> LoadIbverbs(const Clock& clock, ThreadMaker& threads);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_H_
