#include "vmm/app/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace ferrite {

int Fail(const absl::Status& status, int exit_code) {
  std::string message(status.message());
  // One line, whatever is in a path's name.
  std::replace(message.begin(), message.end(), '\n', ' ');
  fmt::print(stderr, "ferrite: {}\n", message);
  return exit_code;
}

int Fail(const absl::Status& status) {
  return Fail(status, absl::IsDeadlineExceeded(status) ? kExitDeadline : kExitFailure);
}

}  // namespace ferrite
