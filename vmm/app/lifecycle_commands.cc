#include "vmm/app/lifecycle_commands.h"

#include "absl/memory/memory.h"
#include "vmm/app/commands.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {

std::unique_ptr<Command> LifecycleCommand::Pause() {
  return absl::WrapUnique(
      new LifecycleCommand({"pause", "Stop a machine's processors and devices until `resume`", "ferrite pause web1"},
                           &ControlClient::Pause));
}

std::unique_ptr<Command> LifecycleCommand::Resume() {
  return absl::WrapUnique(
      new LifecycleCommand({"resume", "Let a paused machine go on", "ferrite resume web1"}, &ControlClient::Resume));
}

std::unique_ptr<Command> LifecycleCommand::Reset() {
  return absl::WrapUnique(
      new LifecycleCommand({"reset", "Press a machine's reset button", "ferrite reset web1"}, &ControlClient::Reset));
}

void LifecycleCommand::AddTo(CLI::App& app) {
  AddMachine(app, options_.machine);
  AddTimeout(app, options_.machine);
}

absl::Status LifecycleCommand::Finish() { return CheckMachineName(options_.machine.name); }

int LifecycleCommand::Run(int64_t /*started_ns*/) {
  return WithMachine(options_.machine, [&](ControlClient& client) {
    const absl::Status status = (client.*operation_)();
    return status.ok() ? kExitOk : Fail(status);
  });
}

}  // namespace ferrite
