// `ferrite run`: makes a machine and runs it to its end.
#ifndef FERRITE_VMM_APP_RUN_COMMAND_H_
#define FERRITE_VMM_APP_RUN_COMMAND_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "vmm/app/command.h"
#include "vmm/app/monitor_options.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

struct RunCommandOptions {
  MachineConfig config;
  MonitorOptions monitor;
  bool detach = false;
  bool json = false;
};

std::unique_ptr<Command> MakeRunCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_RUN_COMMAND_H_
