// The version of a machine's saved state: proto/state.capnp's Machine.
#ifndef FERRITE_VMM_MACHINE_STATE_VERSION_H_
#define FERRITE_VMM_MACHINE_STATE_VERSION_H_

#include <cstdint>

namespace ferrite {

// The newest that is read. A machine without lost pages writes 1, which an older ferrite reads.
inline constexpr uint32_t kMachineStateVersion = 2;

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_STATE_VERSION_H_
