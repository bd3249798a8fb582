#include "vmm/app/lifecycle_commands.h"

#include "vmm/app/commands.h"
#include "vmm/control/machine_directory.h"

namespace ferrite {
namespace {

class LifecycleCommand final : public CommandWith<LifecycleCommandOptions> {
 public:
  using Operation = absl::Status (ControlClient::*)();

  LifecycleCommand(const Help& help, Operation operation) : CommandWith(help), operation_(operation) {}

  void AddTo(CLI::App& app) override {
    AddMachine(app, options_.machine);
    AddTimeout(app, options_.machine);
  }

  absl::Status Finish() override { return CheckMachineName(options_.machine.name); }

  int Run(int64_t /*started_ns*/) override {
    return WithMachine(options_.machine, [&](ControlClient& client) {
      const absl::Status status = (client.*operation_)();
      return status.ok() ? kExitOk : Fail(status);
    });
  }

 private:
  const Operation operation_;
};

}  // namespace

std::unique_ptr<Command> MakePauseCommand() {
  return std::make_unique<LifecycleCommand>(
      Command::Help{"pause", "Stop a machine's processors and devices until `resume`", "ferrite pause web1"},
      &ControlClient::Pause);
}

std::unique_ptr<Command> MakeResumeCommand() {
  return std::make_unique<LifecycleCommand>(
      Command::Help{"resume", "Let a paused machine go on", "ferrite resume web1"}, &ControlClient::Resume);
}

std::unique_ptr<Command> MakeResetCommand() {
  return std::make_unique<LifecycleCommand>(
      Command::Help{"reset", "Press a machine's reset button", "ferrite reset web1"}, &ControlClient::Reset);
}

}  // namespace ferrite
