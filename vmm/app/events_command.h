// `ferrite events`: prints what happens to a machine until it ends.
#ifndef FERRITE_VMM_APP_EVENTS_COMMAND_H_
#define FERRITE_VMM_APP_EVENTS_COMMAND_H_

#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct EventsCommandOptions {
  MachineOptions machine;
  bool json = false;
};

std::unique_ptr<Command> MakeEventsCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_EVENTS_COMMAND_H_
