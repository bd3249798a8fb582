// A move as its starter sees it: begun, shown while it is on, and accounted for.
#ifndef FERRITE_VMM_APP_FOLLOW_MOVE_H_
#define FERRITE_VMM_APP_FOLLOW_MOVE_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/control/client.h"

namespace ferrite {

// ADDRESS of the user's, who may be in another directory than the monitor; empty where it is.
absl::StatusOr<std::string> MoveDestination(absl::string_view address);

// Starts a move of machine `name`, or the rest of one, by `start`, which returns its number. Shows it to its end, as
// lines of JSON or for people. Returns the exit code.
int FollowMove(const std::string& name, bool json, ControlClient& client,
               const std::function<absl::StatusOr<uint64_t>(ControlClient&)>& start);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_FOLLOW_MOVE_H_
