// Finding the machines of a base (run_dir.h).
#ifndef FERRITE_VMM_CONTROL_MACHINE_FINDER_H_
#define FERRITE_VMM_CONTROL_MACHINE_FINDER_H_

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "vmm/control/grant_record.h"

namespace ferrite {

// A machine in a base directory: a living one, or what a killed monitor left of one that it had handed over.
struct FoundMachine {
  std::string name;
  pid_t pid = 0;
  std::optional<GrantRecord> handed_over;  // set: no monitor lives
  bool own = false;                        // this user's
  Fd directory;                            // from FindMachine() alone
};

// All machines, by name. Removes what this user's killed monitors left, but for those that had handed their guest over;
// follows no symbolic link. A base that is not there holds none.
absl::StatusOr<std::vector<FoundMachine>> ListMachines(const std::string& base);

// NOT_FOUND, with what to do next, when no living machine has that name. Of one that was handed over it says to whom,
// and it names the log that RunDir::KeepLog() left.
absl::StatusOr<FoundMachine> FindMachine(const std::string& base, absl::string_view name);
// A connection to the control socket of one that FindMachine() found; errors as ConnectAt() (base/socket_file.h).
absl::StatusOr<Fd> ConnectToControlSocket(const FoundMachine& machine, absl::Duration patience);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MACHINE_FINDER_H_
