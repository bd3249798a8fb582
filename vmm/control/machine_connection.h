// A client's way to one machine's control socket, and what became of the machine when it is cut.
#ifndef FERRITE_VMM_CONTROL_MACHINE_CONNECTION_H_
#define FERRITE_VMM_CONTROL_MACHINE_CONNECTION_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"

namespace ferrite {

// The machine that a client is for.
struct AskedMachine {
  std::string base;  // as RunBase()
  std::string name;
  absl::Duration timeout;
};

struct MachineConnection {
  Fd socket;
  Fd directory;  // the machine's
};

// NOT_FOUND without such a machine; UNAVAILABLE while it starts or ends.
absl::StatusOr<MachineConnection> ConnectTo(const AskedMachine& asked);

// Waits until nobody has the lock of the machine of `directory`, so that its name is free: its monitor is gone.
// DEADLINE_EXCEEDED. Only the lock tells: a process id may be another namespace's.
absl::Status AwaitUnlocked(const AskedMachine& asked, const Fd& directory, MonotonicTime deadline);

// Why a connection to the machine ended: UNAVAILABLE, in words. A monitor that is killed closes its connections before
// the kernel drops its lock, so this waits for that for a moment.
absl::Status LostMachine(const AskedMachine& asked);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_MACHINE_CONNECTION_H_
