// Machines as JSON. Sizes are bytes, times seconds.
#ifndef FERRITE_VMM_APP_MACHINE_JSON_H_
#define FERRITE_VMM_APP_MACHINE_JSON_H_

#include <nlohmann/json.hpp>

#include "vmm/control/client.h"

namespace ferrite {

nlohmann::ordered_json BalloonJson(const BalloonFigures& figures);
nlohmann::ordered_json MachineJson(const MachineDescription& machine);
// One line, or indented; bytes that are not UTF-8 are replaced.
void PrintJson(const nlohmann::ordered_json& json, bool indented);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MACHINE_JSON_H_
