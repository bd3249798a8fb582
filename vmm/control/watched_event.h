// An event of a machine as a client that watches it gets it.
#ifndef FERRITE_VMM_CONTROL_WATCHED_EVENT_H_
#define FERRITE_VMM_CONTROL_WATCHED_EVENT_H_

#include <cstdint>

#include "absl/time/time.h"
#include "vmm/control/mirror_port.h"
#include "vmm/control/move_port.h"
#include "vmm/machine/machine.h"

namespace ferrite {

struct WatchedEvent {
  MachineEvent event;
  MoveStatus move;      // kMove
  MirrorStatus mirror;  // kMirror
  absl::Time time;
  uint64_t missed = 0;  // events before this one that did not arrive
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_WATCHED_EVENT_H_
