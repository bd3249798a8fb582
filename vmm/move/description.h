// From a source's description of its machine to the configuration of the same machine here, or a refusal (R7).
#ifndef FERRITE_VMM_MOVE_DESCRIPTION_H_
#define FERRITE_VMM_MOVE_DESCRIPTION_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/pinned_file.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "vmm/machine/host_limits.h"
#include "vmm/machine/machine_config.h"
#include "vmm/move/allowed_files.h"
#include "vmm/move/arrival_options.h"
#include "vmm/move/boot_files.h"

namespace ferrite {

// Opens the place of the copy of disk `id`, of `bytes` bytes: where it comes to be here. Errors are for this host's
// user.
using OpenCopy = absl::FunctionRef<absl::StatusOr<std::shared_ptr<const PinnedFile>>(
    const std::string& id, uint64_t bytes, const AllowedFiles::CopyPlace& place)>;

// The configuration that makes the described machine, whose memory is in `regions`, with the disks that the source
// would copy. Both are a peer's, and nobody knows whose peer: every field is checked, and first of all how much there
// is of everything. Refused, with the reason: processor features, vCPUs, memory and memory backings that this host does
// not have, devices and disks that are not known, a disk that is not here. What this host has is told by `host`.
//
// Of the host's files it may have those of `files`, and nothing else is opened. A disk below --disk-from is taken only
// while somebody has it open as the source does, a kernel and an initrd below --boot-from only with the content that
// the source tells. A disk of disk_paths to write to must be open likewise where that would show: an image of a local
// file system that nobody has open is another disk. What is not booted again on a reset is not looked at.
//
// Whatever is the matter with a file, the error has the same words, and they are all that the peer may hear; `tell`
// gets those for this host's user first. `digests` are of the files below --boot-from. Disks that have a place here are
// opened by `open_copy`, last of all; some may have been when another one is refused.
absl::StatusOr<MachineConfig> ConfigOf(state::MachineDescription::Reader described,
                                       std::span<const migration::MachineSpec::Region> regions,
                                       const ArrivalOptions& options, const AllowedFiles& files,
                                       BootFileDigests& digests, const HostLimits& host,
                                       absl::FunctionRef<void(absl::string_view)> tell, OpenCopy open_copy);

// Whether `here`, the description of the machine that was made of it, has what `there` has: each device, in a version
// that takes its state.
absl::Status CheckSameMachine(state::MachineDescription::Reader there, state::MachineDescription::Reader here);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_DESCRIPTION_H_
