// Which changes of a machine's state there are.
#ifndef FERRITE_VMM_MACHINE_MACHINE_STATE_H_
#define FERRITE_VMM_MACHINE_MACHINE_STATE_H_

#include "vmm/machine/machine.h"

namespace ferrite {

// Whether a machine in `from` may go to `to`. Nothing leads out of kStopped.
bool MachineStateMayChange(MachineState from, MachineState to);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_STATE_H_
