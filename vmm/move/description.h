// From a source's description of its machine to the configuration of the same machine here, or a refusal (R7).
#ifndef FERRITE_VMM_MOVE_DESCRIPTION_H_
#define FERRITE_VMM_MOVE_DESCRIPTION_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/machine.capnp.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// What the destination's user decides, not the source.
struct ArrivalOptions {
  std::string name;
  std::map<std::string, std::string> disk_paths;  // by the disk's id; others are where they are at the source
  bool trust_disks = false;                       // disk_paths are right also where it shows that nobody has them open
  std::string kernel_path;                        // empty: the source's, with the source's initrd
  std::string initrd_path;                        // of kernel_path; empty: none
  bool lock_memory = false;                       // once the guest has arrived
  bool dirty_ring = false;                        // MachineConfig's
};

// The configuration that makes the described machine. The description is a peer's, and nobody knows whose peer: every
// field is checked. Refused, with the reason: processor features, vCPUs, memory and memory backings that this host does
// not have, devices and disks that are not known, a disk that is not here. A file that only the description names is
// taken with a proof that the peer could have it anyway: a disk while somebody has it open as the source does, a kernel
// and an initrd whose content the peer knows. A disk of disk_paths to write to must be open likewise where that would
// show: an image of a local file system that nobody has open is another disk. What is not booted again on a reset is
// not looked at.
absl::StatusOr<MachineConfig> ConfigOf(state::MachineDescription::Reader described, const ArrivalOptions& options,
                                       const Kvm& kvm);

// Whether `here`, the description of the machine that was made of it, has what `there` has: each device, in a version
// that takes its state, and each disk, with its size.
absl::Status CheckSameMachine(state::MachineDescription::Reader there, state::MachineDescription::Reader here);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_DESCRIPTION_H_
