// `ferrite stop`: ends a machine, and waits for the end of its monitor.
#ifndef FERRITE_VMM_APP_STOP_COMMAND_H_
#define FERRITE_VMM_APP_STOP_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct StopCommandOptions {
  MachineOptions machine;
  bool force = false;
};

std::unique_ptr<Command> MakeStopCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_STOP_COMMAND_H_
