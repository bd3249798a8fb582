#include "migration/sending/mirrored_rounds.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

// A round must leave at most this part of the least that was left.
constexpr double kConverging = 0.7;
constexpr int kMostInVain = 3;
constexpr absl::Duration kLeastTime = absl::Microseconds(1);

}  // namespace

MirroredDecision DecideMirroredRound(const MirroredRound& now, const MirroredTrend& before, const MirroredLimits& limits) {
  MirroredDecision decision{.trend = before};
  MirroredTrend& trend = decision.trend;
  // Holes and zeroes of the first pass are no data, and take no time of the wire; what was written is.
  const bool first = trend.least_bytes == std::numeric_limits<uint64_t>::max();
  const uint64_t went = first ? now.wire_bytes : std::max(now.wire_bytes, now.sent_bytes);
  trend.rate =
      std::max({trend.rate, static_cast<double>(went) / absl::ToDoubleSeconds(std::max(now.took, kLeastTime)), 1.0});
  decision.last_bytes = absl::Seconds(static_cast<double>(now.remaining_bytes) / trend.rate);
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
    trend = {.rate = trend.rate, .least_bytes = now.remaining_bytes, .in_vain = 0, .blocking = true};
  }
  return decision;
}

}  // namespace ferrite::migration
