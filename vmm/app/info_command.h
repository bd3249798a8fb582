// `ferrite info`: shows a machine.
#ifndef FERRITE_VMM_APP_INFO_COMMAND_H_
#define FERRITE_VMM_APP_INFO_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct InfoCommandOptions {
  MachineOptions machine;
  bool json = false;
};

std::unique_ptr<Command> MakeInfoCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_INFO_COMMAND_H_
