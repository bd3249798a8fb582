#include "migration/sending/channel_count.h"

namespace ferrite::migration {

void ChannelCount::Sent(uint64_t bytes, absl::Duration took) {
  if (is_found_ || bytes == 0 || took < kLeastTime) {
    return;
  }
  const double rate = static_cast<double>(bytes) / absl::ToDoubleSeconds(took);
  const double before = rates_.empty() ? 0 : rates_.back();
  rates_.push_back(rate);
  if (rate < kLeastGain * before) {
    --now_;
    is_found_ = true;
  } else if (now_ >= most_) {
    is_found_ = true;
  } else {
    ++now_;
  }
}

}  // namespace ferrite::migration
