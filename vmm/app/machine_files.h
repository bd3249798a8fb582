// A look at the files that a machine needs, before anything is made.
#ifndef FERRITE_VMM_APP_MACHINE_FILES_H_
#define FERRITE_VMM_APP_MACHINE_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/channel/socket/address.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// Refuses what cannot work, with an error that names the option and the file: missing, a directory, not readable or not
// writable.
absl::Status CheckFiles(const MachineConfig& config);

// Logs a warning when others than its owner can open the disk's image, as far as modes tell, and so lock it while the
// machine moves: then its guest stands still. Who is in a block device's group has the host's disks anyway.
void WarnOfOthersDisk(const std::string& path, bool read_only);

// `path` from the root.
absl::StatusOr<std::string> AbsolutePath(const std::string& path);

// ADDRESS as every process reads it: the path of "unix:PATH" from the root. INVALID_ARGUMENT, as ParseAddress(), when
// that is too long for a socket.
absl::StatusOr<migration::Address> AbsoluteAddress(migration::Address address);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MACHINE_FILES_H_
