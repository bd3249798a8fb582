// `ferrite pause`, `resume` and `reset`: one call to a machine.
#ifndef FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_
#define FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"
#include "vmm/control/client.h"

namespace ferrite {

class LifecycleCommand final : public Command {
 public:
  struct Options {
    MachineOptions machine;
  };

  static std::unique_ptr<Command> Pause();
  static std::unique_ptr<Command> Resume();
  static std::unique_ptr<Command> Reset();

  void AddTo(CLI::App& app) override;
  absl::Status Finish() override;
  int Run(int64_t started_ns) override;

  const Options& options() const { return options_; }

 private:
  using Operation = absl::Status (ControlClient::*)();
  LifecycleCommand(const Help& help, Operation operation) : Command(help), operation_(operation) {}

  const Operation operation_;
  Options options_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_
