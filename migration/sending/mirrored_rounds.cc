#include "migration/sending/mirrored_rounds.h"

#include <algorithm>
#include <utility>

namespace ferrite::migration {
namespace {

// A round must leave at most this part of the least that was left.
constexpr double kConverging = 0.7;
constexpr int kMostInVain = 3;
// Of what was sent: a round of which less went over the wire was of zeroes.
constexpr double kLeastData = 1.0 / 64;
constexpr absl::Duration kLeastTime = absl::Microseconds(1);

}  // namespace

MirroredDecision DecideMirroredRound(const MirroredRound& now, const MirroredTrend& before,
                                     const MirroredLimits& limits) {
  MirroredDecision decision{.trend = before};
  MirroredTrend& trend = decision.trend;
  const auto data = static_cast<double>(now.wire_bytes);
  if (data > kLeastData * static_cast<double>(now.sent_bytes)) {
    const double rate = data / absl::ToDoubleSeconds(std::max(now.took, kLeastTime));
    trend.rate = std::max(rate, std::exchange(trend.last_rate, rate));
  }
  decision.last_bytes = absl::Seconds(static_cast<double>(now.remaining_bytes) / std::max(trend.rate, 1.0));
  if (now.remaining_bytes == 0 || decision.last_bytes <= limits.downtime_limit - limits.fixed_downtime) {
    decision.step = MirroredStep::kReady;
    return decision;
  }
  const bool helped = static_cast<double>(now.remaining_bytes) <= kConverging * static_cast<double>(trend.least_bytes);
  trend.in_vain = helped ? 0 : trend.in_vain + 1;
  trend.least_bytes = std::min(trend.least_bytes, now.remaining_bytes);
  if (trend.in_vain < kMostInVain) {
    return decision;
  }
  if (decision.last_bytes <= limits.downtime_limit) {
    decision.step = MirroredStep::kReady;
  } else if (trend.blocking) {
    decision.step = MirroredStep::kGiveUp;
  } else {
    decision.step = MirroredStep::kBlock;
    trend.least_bytes = now.remaining_bytes;
    trend.in_vain = 0;
    trend.blocking = true;
  }
  return decision;
}

}  // namespace ferrite::migration
