#include "vmm/app/text.h"

#include <fmt/format.h>

#include <cstdint>

#include "absl/strings/str_replace.h"

namespace ferrite {

std::string FormatUptime(absl::Duration uptime) {
  const int64_t seconds = absl::ToInt64Seconds(uptime);
  if (seconds >= 86'400) {
    return fmt::format("{}d{}h", seconds / 86'400, seconds / 3600 % 24);
  }
  if (seconds >= 3600) {
    return fmt::format("{}h{}m", seconds / 3600, seconds / 60 % 60);
  }
  return seconds >= 60 ? fmt::format("{}m{}s", seconds / 60, seconds % 60) : fmt::format("{}s", seconds);
}

const char* MachineEventKindName(MachineEvent::Kind kind) {
  switch (kind) {
    case MachineEvent::Kind::kRunning:
      return "running";
    case MachineEvent::Kind::kPaused:
      return "paused";
    case MachineEvent::Kind::kReset:
      return "reset";
    case MachineEvent::Kind::kStopped:
      return "stopped";
    case MachineEvent::Kind::kMove:
      return "move";
    case MachineEvent::Kind::kLostPage:
      return "lost-page";
    case MachineEvent::Kind::kMirror:
      return "mirror";
    case MachineEvent::Kind::kBalloon:
      break;
  }
  return "balloon";
}

std::string IndentRest(absl::string_view text) { return absl::StrReplaceAll(text, {{"\n", "\n    "}}); }

}  // namespace ferrite
