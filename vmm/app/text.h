// Text for people.
#ifndef FERRITE_VMM_APP_TEXT_H_
#define FERRITE_VMM_APP_TEXT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// "3d4h", "2h15m", "59s".
std::string FormatUptime(absl::Duration uptime);

// "running", "paused", "reset", "stopped", "balloon", "move", "mirror".
const char* MachineEventKindName(MachineEvent::Kind kind);

// `text` as one record of several lines: those after the first are indented, so that none can be taken for a record of
// its own.
std::string IndentRest(absl::string_view text);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_TEXT_H_
