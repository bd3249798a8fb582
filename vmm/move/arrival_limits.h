// How much a machine that a peer describes may have.
#ifndef FERRITE_VMM_MOVE_ARRIVAL_LIMITS_H_
#define FERRITE_VMM_MOVE_ARRIVAL_LIMITS_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "proto/machine.capnp.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// What the destination's user allows (--max-mem, --max-cpus, --max-disk).
struct ArrivalLimits {
  uint64_t memory_bytes = std::numeric_limits<uint64_t>::max();
  uint32_t cpus = kMaxCpus;
  uint64_t disk_bytes = uint64_t{4} << 40;  // of one that is copied: its state takes 1/64 KiB of that in memory
};

// Whether each list of the description has no more entries than a machine of `run` can have, and the machine no more
// memory and vCPUs than `limits` allow. Takes no longer for a description that has more: nothing else of it is to be
// looked at before.
absl::Status CheckLimits(state::MachineDescription::Reader described, const ArrivalLimits& limits);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_ARRIVAL_LIMITS_H_
