#include "vmm/app/commands.h"

#include <fmt/format.h>

#include <string>

#include "base/clean_text.h"

namespace ferrite {

int Fail(const absl::Status& status, int exit_code) {
  // One line, whatever is in a path's name.
  fmt::print(stderr, "ferrite: {}\n", CleanText(status.message(), kMaxLongText));
  return exit_code;
}

int Fail(const absl::Status& status) {
  return Fail(status, absl::IsDeadlineExceeded(status) ? kExitDeadline : kExitFailure);
}

}  // namespace ferrite
