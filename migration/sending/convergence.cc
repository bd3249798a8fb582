#include "migration/sending/convergence.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

constexpr int kFirstThrottle = 20;
constexpr int kThrottleStep = 10;
constexpr int kMaxThrottle = 99;
// A round must leave at most this part of what the one before left.
constexpr double kConverging = 0.7;

}  // namespace

double RateOf(const RoundFigures& round) {
  const double seconds = std::max(absl::ToDoubleSeconds(round.took), 1e-6);
  return std::max(static_cast<double>(round.bytes_sent) / seconds, 1.0);
}

Decision DecideNext(const RoundFigures& now, const RoundFigures* before, const ConvergenceLimits& limits) {
  Decision decision;
  decision.throttle_percent = now.throttle_percent;
  // A short round measures latency, not the channel: the faster of two rounds is nearer to the truth.
  const double rate = before == nullptr ? RateOf(now) : std::max(RateOf(now), RateOf(*before));
  const absl::Duration last_pages = absl::Seconds(static_cast<double>(now.remaining_bytes) / rate);
  decision.expected_downtime = limits.fixed_downtime + last_pages;
  const absl::Duration lowerable = now.throttle_percent == kMaxThrottle ? last_pages : decision.expected_downtime;
  if (lowerable <= limits.downtime_limit || now.remaining_bytes == 0) {
    decision.step = NextStep::kSwitchover;
    return decision;
  }
  // After the first round, compare with all that it sent.
  const uint64_t earlier = before == nullptr ? now.bytes_sent : before->remaining_bytes;
  if (static_cast<double>(now.remaining_bytes) <= kConverging * static_cast<double>(earlier)) {
    decision.step = NextStep::kRound;
    return decision;
  }
  if (limits.mode != MoveMode::kPrecopy && limits.postcopy_possible) {
    decision.step = NextStep::kPostcopy;
    return decision;
  }
  decision.step = NextStep::kThrottle;
  decision.throttle_percent =
      now.throttle_percent == 0 ? kFirstThrottle : std::min(now.throttle_percent + kThrottleStep, kMaxThrottle);
  return decision;
}

}  // namespace ferrite::migration
