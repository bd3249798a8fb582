#include "vmm/control/move_port.h"

#include "absl/strings/str_cat.h"

namespace ferrite {

std::string DescribePlace(GuestPlace place, absl::string_view who, absl::string_view where) {
  switch (place) {
    case GuestPlace::kHereRunning:
      return absl::StrCat(who, " runs on here");
    case GuestPlace::kHerePaused:
      return absl::StrCat(who, " is here, paused");
    case GuestPlace::kHereStopped:
      return absl::StrCat(who, " was here and has stopped");
    case GuestPlace::kThere:
      return absl::StrCat(who, " runs at ", where);
    case GuestPlace::kTherePaused:
      return absl::StrCat(who, " is at ", where, ", paused");
    case GuestPlace::kHandedOver:
      break;
  }
  return absl::StrCat(who, " was handed over to ", where, " and the connection is lost");
}

absl::string_view OperationName(Operation operation) {
  switch (operation) {
    case Operation::kPause:
      return "pause";
    case Operation::kResume:
      return "resume";
    case Operation::kReset:
      return "reset";
    case Operation::kStop:
      return "stop";
    case Operation::kMirror:
      return "mirror a disk";
    case Operation::kSetBalloon:
      break;
  }
  return "set the balloon";
}

}  // namespace ferrite
