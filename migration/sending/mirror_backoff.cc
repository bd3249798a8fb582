#include "migration/sending/mirror_backoff.h"

#include <algorithm>

namespace ferrite::migration {

ErrorAction ActionFor(ErrorPolicy policy, const absl::Status& error) {
  switch (policy) {
    case ErrorPolicy::kReport:
      break;
    case ErrorPolicy::kIgnore:
      return ErrorAction::kWait;
    case ErrorPolicy::kStop:
      return ErrorAction::kStop;
    case ErrorPolicy::kEnospc:
      return absl::IsResourceExhausted(error) ? ErrorAction::kStop : ErrorAction::kFail;
  }
  return ErrorAction::kFail;
}

void MirrorBackoff::Failed(MonotonicTime now) {
  if (now < retry_at_) {
    return;
  }
  retry_at_ = now + next_;
  next_ = std::min(next_ * 2, kMost);
}

void MirrorBackoff::Succeeded() { next_ = kFirst; }

}  // namespace ferrite::migration
