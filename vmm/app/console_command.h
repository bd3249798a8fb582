// `ferrite console`: joins a terminal with a machine's serial console.
#ifndef FERRITE_VMM_APP_CONSOLE_COMMAND_H_
#define FERRITE_VMM_APP_CONSOLE_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct ConsoleCommandOptions {
  MachineOptions machine;
};

std::unique_ptr<Command> MakeConsoleCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_CONSOLE_COMMAND_H_
