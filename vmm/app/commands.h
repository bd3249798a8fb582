// The commands of ferrite, one file each. Every one prints and returns its exit code.
#ifndef FERRITE_VMM_APP_COMMANDS_H_
#define FERRITE_VMM_APP_COMMANDS_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/app/command_line.h"
#include "vmm/app/exit_codes.h"
#include "vmm/control/client.h"
#include "vmm/control/run_dir.h"

namespace ferrite {

int RunCommand(const CommandLine& line);
int DoctorCommand(const CommandLine& line);
int ReceiveCommand(const CommandLine& line);
int MoveCommand(const CommandLine& line);
int RecoverCommand(const CommandLine& line);
int PsCommand(const CommandLine& line);
int InfoCommand(const CommandLine& line);
int PauseCommand(const CommandLine& line);
int ResumeCommand(const CommandLine& line);
int ResetCommand(const CommandLine& line);
int StopCommand(const CommandLine& line);
int BalloonCommand(const CommandLine& line);
int ConsoleCommand(const CommandLine& line);
int EventsCommand(const CommandLine& line);
int VersionCommand(const CommandLine& line);

// How a machine of this process ended, for a person; returns the exit code.
int ReportEnd(const std::string& name, const StopInfo& info);

// Prints "ferrite: <message>" to standard error and returns the code.
int Fail(const absl::Status& status, int exit_code);
// The same with the exit code that the Status of a control call stands for.
int Fail(const absl::Status& status);

// What commands that talk to a machine share: connects to line.name and calls `use`, or fails.
template <typename Use>
int WithMachine(const CommandLine& line, Use use) {
  auto base = RunBase(line.run_dir);
  if (!base.ok()) {
    return Fail(base.status(), kExitFailure);
  }
  auto client = ControlClient::ConnectToMachine(*base, line.name, line.timeout);
  if (!client.ok()) {
    return Fail(client.status(), absl::IsNotFound(client.status()) ? kExitNoSuchMachine : kExitFailure);
  }
  return use(**client);
}

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_COMMANDS_H_
