#include "vmm/machine/machine_state.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace ferrite {
namespace {

using enum MachineState;

constexpr std::pair<MachineState, MachineState> kChanges[] = {
    {kCreated, kPaused},   // Boot, LoadState
    {kPaused, kRunning},   // Resume
    {kRunning, kPaused},   // Pause
    {kCreated, kStopped},  // Stop
    {kPaused, kStopped},  {kRunning, kStopped},
};

}  // namespace

bool MachineStateMayChange(MachineState from, MachineState to) {
  return std::find(std::begin(kChanges), std::end(kChanges), std::pair(from, to)) != std::end(kChanges);
}

absl::string_view MachineStateName(MachineState state) {
  switch (state) {
    case kCreated:
      return "created";
    case kPaused:
      return "paused";
    case kRunning:
      return "running";
    case kStopped:
      return "stopped";
  }
  return "unknown";
}

absl::string_view StopReasonName(StopReason reason) {
  switch (reason) {
    case StopReason::kPowerOff:
      return "power-off";
    case StopReason::kReset:
      return "reset";
    case StopReason::kRequested:
      return "requested";
    case StopReason::kGuestFault:
      return "guest fault";
    case StopReason::kError:
      return "error";
    case StopReason::kMoved:
      return "moved";
  }
  return "unknown";
}

}  // namespace ferrite
