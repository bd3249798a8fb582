#include "migration/sending/mirror_decision.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

// As much may become dirty, beside what is copied.
constexpr double kConverging = 0.7;

}  // namespace

absl::Duration TimeToDrain(const MirrorMeasures& measures) {
  if (measures.remaining_bytes == 0) {
    return absl::ZeroDuration();
  }
  if (measures.possible_rate <= 0 || measures.failing) {
    return absl::InfiniteDuration();
  }
  return absl::Seconds(static_cast<double>(measures.remaining_bytes) / measures.possible_rate);
}

bool FitsDowntime(const MirrorMeasures& measures, absl::Duration downtime_limit) {
  return measures.remaining_bytes == 0 ||
         (measures.remaining_bytes <= measures.copied_bytes && TimeToDrain(measures) <= downtime_limit);
}

bool IsFutile(const MirrorMeasures& measures, absl::Duration downtime_limit) {
  if (measures.first_pass || measures.failing || FitsDowntime(measures, downtime_limit)) {
    return false;
  }
  double rate = measures.possible_rate;
  if (measures.max_bandwidth != 0) {
    rate = std::min(rate, static_cast<double>(measures.max_bandwidth));
  }
  return measures.dirty_rate > kConverging * rate;
}

}  // namespace ferrite::migration
