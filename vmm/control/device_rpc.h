// A machine's devices as `describe` of proto/control.capnp tells of them.
#ifndef FERRITE_VMM_CONTROL_DEVICE_RPC_H_
#define FERRITE_VMM_CONTROL_DEVICE_RPC_H_

#include <vector>

#include "proto/control.capnp.h"
#include "vmm/machine/device_kinds.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

// Also what a client knows that is older than Description.devices.
void FillDevices(const MachineConfig& config, control::Description::Builder out);

// Its texts are clean. Of a monitor that is older than Description.devices, the disks and the source of randomness.
std::vector<DeviceReport> ReadDevices(control::Description::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_DEVICE_RPC_H_
