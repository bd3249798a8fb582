// What a valid machine is, whoever describes it: a command line, or a peer.
#ifndef FERRITE_VMM_MACHINE_MACHINE_CHECK_H_
#define FERRITE_VMM_MACHINE_MACHINE_CHECK_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// What errors call a machine's parts: the words by which whoever described it knows them.
struct PartNames {
  absl::string_view cpus = "the machine's vCPUs";
  absl::string_view memory = "the machine's memory";
  absl::string_view memory_backing = "its memory backing";
  absl::string_view command_line = "the machine's kernel command line";
  absl::string_view balloon = "the machine's balloon";
  absl::string_view disk = "the machine's disks";
};

// Whether a ferrite on some host can make the machine: how much there is of everything, the ids of its disks, that each
// device has an interrupt line. Files are not looked at. Errors begin with the name of the part; what they cite of the
// configuration is text.
absl::Status CheckMachineConfig(const MachineConfig& config, const PartNames& names = {});

// Whether this host has that many vCPUs, and that much memory, for it at all.
absl::Status CheckHostHas(const MachineConfig& config, const HostLimits& host, const PartNames& names = {});
// The part of it about memory.
absl::Status CheckHostHasMemory(const MachineConfig& config, const HostMemory& host, const PartNames& names = {});

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_CHECK_H_
