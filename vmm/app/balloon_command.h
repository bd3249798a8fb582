// `ferrite balloon`: shows or sets a machine's balloon.
#ifndef FERRITE_VMM_APP_BALLOON_COMMAND_H_
#define FERRITE_VMM_APP_BALLOON_COMMAND_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"

namespace ferrite {

struct BalloonCommandOptions {
  MachineOptions machine;
  std::optional<uint64_t> bytes;
  bool wait = false;
  bool json = false;
};

std::unique_ptr<Command> MakeBalloonCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_BALLOON_COMMAND_H_
