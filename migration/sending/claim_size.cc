#include "migration/sending/claim_size.h"

#include <algorithm>

namespace ferrite::migration {

void ClaimSize::Sent(uint64_t pages, absl::Duration took) {
  sent_ += static_cast<double>(pages);
  took_ += std::max(took, absl::ZeroDuration());
  if (took_ < kAim && sent_ < static_cast<double>(kMost)) {
    return;
  }
  const double most = static_cast<double>(kMost);
  const double in_time = took_ > absl::ZeroDuration() ? sent_ * absl::FDivDuration(kAim, took_) : most;
  pages_ = static_cast<uint64_t>(std::clamp(in_time, static_cast<double>(kLeast), most));
  sent_ /= 2;
  took_ /= 2;
}

}  // namespace ferrite::migration
