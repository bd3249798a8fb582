// Commands fail in one way, and find the machine that they talk to in one way.
#ifndef FERRITE_VMM_APP_COMMANDS_H_
#define FERRITE_VMM_APP_COMMANDS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/app/command_options.h"
#include "vmm/app/exit_codes.h"
#include "vmm/control/client.h"
#include "vmm/control/run_base.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// How a machine of this process ended, for a person; returns the exit code.
int ReportEnd(const std::string& name, const StopInfo& info);

// Prints "ferrite: <message>" to standard error and returns the code.
int Fail(const absl::Status& status, int exit_code);
// The same with the exit code that the Status of a control call stands for.
int Fail(const absl::Status& status);

// Connects to the machine and calls `use`, or fails.
template <typename Use>
int WithMachine(const MachineOptions& machine, Use use) {
  auto base = RunBase(machine.run_dir);
  if (!base.ok()) {
    return Fail(base.status(), kExitFailure);
  }
  auto client = ControlClient::ConnectToMachine(*base, machine.name, machine.timeout);
  if (!client.ok()) {
    return Fail(client.status(), absl::IsNotFound(client.status()) ? kExitNoSuchMachine : kExitFailure);
  }
  return use(**client);
}

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMANDS_H_
