// What `describe` and `balloon` of proto/control.capnp answered.
#ifndef FERRITE_VMM_CONTROL_DESCRIPTION_RPC_H_
#define FERRITE_VMM_CONTROL_DESCRIPTION_RPC_H_

#include "proto/control.capnp.h"
#include "vmm/control/machine_description.h"
#include "vmm/machine/balloon_port.h"

namespace ferrite {

// A server may be anybody's, and what it says is shown to whoever runs the command: all texts are clean. The process is
// for the caller to add.
MachineDescription ReadDescription(control::Description::Reader in);
BalloonFigures ReadBalloon(control::Balloon::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_DESCRIPTION_RPC_H_
