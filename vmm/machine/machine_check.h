// What a valid machine is, whoever describes it: a command line, or a peer.
#ifndef FERRITE_VMM_MACHINE_MACHINE_CHECK_H_
#define FERRITE_VMM_MACHINE_MACHINE_CHECK_H_

#include "absl/status/status.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// Errors call a machine's parts by the words that whoever described it knows: options of `run`, or plain words.
enum class DescribedBy { kCommandLine, kPeer };

// Whether a ferrite on some host can make the machine: how much there is of everything, what each device may be told,
// that each has a name and an interrupt line of its own. Files are not looked at. Errors begin with the part, and what
// they cite of the configuration is text.
absl::Status CheckMachineConfig(const MachineConfig& config, DescribedBy by);

// Whether this host has that many vCPUs, and that much memory, for it at all.
absl::Status CheckHostHas(const MachineConfig& config, const HostLimits& host, DescribedBy by);
// The part of it about memory.
absl::Status CheckHostHasMemory(const MachineConfig& config, const HostMemory& host, DescribedBy by);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_CHECK_H_
