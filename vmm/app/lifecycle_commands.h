// `ferrite pause`, `resume` and `reset`: one call to a machine.
#ifndef FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_
#define FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct LifecycleCommandOptions {
  MachineOptions machine;
};

std::unique_ptr<Command> MakePauseCommand();
std::unique_ptr<Command> MakeResumeCommand();
std::unique_ptr<Command> MakeResetCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_LIFECYCLE_COMMANDS_H_
