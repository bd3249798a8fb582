// `ferrite mirror`: copies a machine's disk while it is written to, and asks about such a copy or changes it.
#ifndef FERRITE_VMM_APP_MIRROR_COMMAND_H_
#define FERRITE_VMM_APP_MIRROR_COMMAND_H_

#include <cstdint>
#include <memory>

#include "vmm/app/command.h"
#include "vmm/app/command_options.h"
#include "vmm/control/mirror_port.h"

namespace ferrite {

struct MirrorCommandOptions {
  enum class Action { kMirror, kStatus, kComplete, kCancel, kPause, kResume, kSet };

  MachineOptions machine;
  Action action = Action::kMirror;
  MirrorRequest mirror;
  bool keep_copy = false;      // kCancel
  uint64_t max_bandwidth = 0;  // kSet
  bool json = false;
};

std::unique_ptr<Command> MakeMirrorCommand();

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MIRROR_COMMAND_H_
