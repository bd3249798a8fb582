// The engine's host in a monitor.
#ifndef FERRITE_VMM_MOVE_ENGINE_HOST_H_
#define FERRITE_VMM_MOVE_ENGINE_HOST_H_

#include "migration/api/host.h"

namespace ferrite {

// One for all moves of the process: what the engine logs goes to Log().
const migration::Host& EngineHost();

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_ENGINE_HOST_H_
