#include "migration/sending/channel_count.h"

#include <algorithm>

namespace ferrite::migration {

int ChannelCount::Most(int processors) { return std::clamp(processors, 1, kMost); }

void ChannelCount::Sent(uint64_t bytes, absl::Duration took) {
  if (is_found_ || bytes == 0 || took < kLeastTime) {
    return;
  }
  const double rate = static_cast<double>(bytes) / absl::ToDoubleSeconds(took);
  if (rate < kLeastGain * rate_before_) {
    --now_;
    is_found_ = true;
  } else if (now_ >= most_) {
    is_found_ = true;
  } else {
    rate_before_ = rate;
    ++now_;
  }
}

}  // namespace ferrite::migration
