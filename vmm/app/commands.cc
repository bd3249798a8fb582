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

int ReportEnd(const std::string& name, const StopInfo& info) {
  switch (info.reason) {
    case StopReason::kGuestFault:
      fmt::print(stderr, "ferrite: the guest of {} cannot go on:\n{}\n", name, CleanLines(info.details, kMaxLongText));
      return kExitGuestFault;
    case StopReason::kError:
      fmt::print(stderr, "ferrite: machine {} failed: {}\n", name, CleanLines(info.details, kMaxLongText));
      return kExitFailure;
    case StopReason::kMoved:
      fmt::print(stderr, "ferrite: machine {} has moved to {}\n", name, CleanText(info.details, kMaxLongText));
      return kExitOk;
    default:
      return kExitOk;
  }
}

}  // namespace ferrite
