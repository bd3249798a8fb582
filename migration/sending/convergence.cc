#include "migration/sending/convergence.h"

#include <algorithm>
#include <limits>

namespace ferrite::migration {
namespace {

constexpr int kFirstThrottle = 20;
constexpr int kThrottleStep = 10;
constexpr int kMaxThrottle = 99;
// A round must leave at most this part of what is left before it.
constexpr double kConverging = 0.7;
// Of what is sent for the first time: as much may be written elsewhere meanwhile. All of that goes again, and so
// on: 1.67 times of memory in all, and the guest pays for each of its writes that is seen.
constexpr double kFollowing = 0.4;
// Of memory: what is sent before anybody looks what the guest writes. A few of these parts may be in vain.
constexpr uint64_t kParts = 32;
// Of memory: what may be sent in all, where the guest can go before all of it has come and does not converge.
constexpr double kMostSent = 1.15;
// A round of less measures nothing.
constexpr uint64_t kLeastRound = uint64_t{2} << 20;
// In which what a throttle does is seen: its steps are shorter, but not by much.
constexpr absl::Duration kThrottledRound = absl::Milliseconds(50);
// What is written for the first time in a part, beside what was sent in it, while the guest does as before.
constexpr double kQuietPart = 1.0 / 8;
constexpr absl::Duration kLeastTime = absl::Microseconds(1);
constexpr uint64_t kWhole = std::numeric_limits<uint64_t>::max();

double PerSecond(uint64_t bytes, absl::Duration took) {
  return std::max(static_cast<double>(bytes) / absl::ToDoubleSeconds(std::max(took, kLeastTime)), 1.0);
}

uint64_t PartOf(const ConvergenceLimits& limits) { return std::max(limits.memory_bytes / kParts, kLeastRound); }

bool MayTurn(const ConvergenceLimits& limits) { return limits.mode != MoveMode::kPrecopy && limits.postcopy_possible; }

bool IsFirstTime(RoundPages pages) { return pages == RoundPages::kUnsent || pages == RoundPages::kCalm; }

// The rate at which the last pages would go, over the wire. A short round measures latency, not the channel: the faster
// of two rounds is nearer to the truth. Pages that are zero take no time of the wire, and of what was sent again it is
// known how many they are; not of mirrored parts, where they are told in large runs.
double RateOfLastPages(const RoundFigures& now, const RoundFigures* before) {
  double rate = RateOf(now);
  if (before != nullptr) {
    rate = std::max(rate, RateOf(*before));
  }
  return IsFirstTime(now.pages) ? rate : std::max(rate, PerSecond(now.sent_bytes + now.mirrored_wire_bytes, now.took));
}

// What the round that could follow would send, and whether that is of use.
struct Outlook {
  RoundPages pages = RoundPages::kCalm;
  bool futile = false;
  bool certain = false;  // by what is written all the time
};

Outlook LookAhead(const RoundFigures& now, const RoundFigures* before, const ConvergenceLimits& limits,
                  double rate_of_last_pages, absl::Duration for_last_pages) {
  const auto again = static_cast<double>(now.again_bytes);
  const auto once = static_cast<double>(now.dirtied_bytes - now.again_bytes);
  const auto is_enough = [&](uint64_t bytes) {
    return bytes >= PartOf(limits) || (bytes > 0 && bytes >= now.remaining_bytes / 2);
  };
  if (is_enough(now.unsent_bytes)) {
    return {.pages = is_enough(now.calm_bytes) ? RoundPages::kCalm : RoundPages::kUnsent,
            .futile = once > kFollowing * static_cast<double>(now.sent_bytes)};
  }
  const auto left = static_cast<double>(now.remaining_bytes);
  double rate = PerSecond(now.sent_bytes, now.took);
  const absl::Duration took = std::max(now.took, kLeastTime);
  absl::Duration shortest = took;
  if (before != nullptr) {
    rate = std::max(rate, PerSecond(before->sent_bytes, before->took));
    shortest = std::min(shortest, std::max(before->took, kLeastTime));
  }
  // Of what was found written again after rounds that took longer than the next one, nobody knows; as little as may be
  // is expected, so that it is tried.
  const absl::Duration time_of_all = absl::Seconds(left / rate);
  const double again_after_all = again * std::min(absl::FDivDuration(time_of_all, shortest), 1.0);
  const double left_by_all = again_after_all + once * absl::FDivDuration(time_of_all, took);
  const absl::Duration time_of_quiet = absl::Seconds((left - again) / rate);
  const double left_by_quiet = again + once * absl::FDivDuration(time_of_quiet, took);
  // Where the guest does not run there before all has come, what is left for the switchover must fit the limit.
  const bool may_leave = MayTurn(limits) || again + static_cast<double>(now.mirrored_bytes) <=
                                                rate_of_last_pages * absl::ToDoubleSeconds(for_last_pages);
  if (may_leave && left_by_quiet <= left_by_all) {
    return {.pages = RoundPages::kQuiet,
            .futile = left_by_quiet > kConverging * left,
            .certain = again > kConverging * left};
  }
  return {.pages = RoundPages::kAll,
          .futile = left_by_all > kConverging * left,
          .certain = again_after_all > kConverging * left};
}

// A round that sent again, and left more than it was to leave.
bool Failed(const RoundFigures& now, const RoundFigures* before) {
  return before != nullptr && !IsFirstTime(now.pages) &&
         static_cast<double>(now.remaining_bytes) >
             static_cast<double>(before->remaining_bytes) - (1 - kConverging) * static_cast<double>(now.sent_bytes);
}

}  // namespace

double RateOf(const RoundFigures& round) { return PerSecond(round.wire_bytes + round.mirrored_wire_bytes, round.took); }

Decision FirstRound(const ConvergenceLimits& limits) {
  return {.step = NextStep::kRound, .pages = RoundPages::kCalm, .most_bytes = PartOf(limits)};
}

Decision DecideNext(const RoundFigures& now, const RoundFigures* before, const ConvergenceLimits& limits) {
  Decision decision;
  decision.throttle_percent = now.throttle_percent;
  const double rate = RateOfLastPages(now, before);
  const absl::Duration last_of_memory = absl::Seconds(static_cast<double>(now.remaining_bytes) / rate);
  const absl::Duration last_pages = absl::Seconds(static_cast<double>(now.remaining_bytes + now.mirrored_bytes) / rate);
  decision.expected_downtime = limits.fixed_downtime + last_pages;
  const absl::Duration for_last_pages =
      limits.downtime_limit - (now.throttle_percent == kMaxThrottle ? absl::ZeroDuration() : limits.fixed_downtime);

  const Outlook outlook = LookAhead(now, before, limits, rate, for_last_pages);
  const bool is_first_time = IsFirstTime(outlook.pages);
  decision.futile = outlook.futile || Failed(now, before);
  // In the next round, at most: what it sends, or what is there by now and written.
  const uint64_t there = limits.memory_bytes - std::min(limits.memory_bytes, now.remaining_bytes);
  const uint64_t in_vain = std::max(PartOf(limits), std::min(now.dirtied_bytes - now.again_bytes, there));
  const bool is_dear = MayTurn(limits) && static_cast<double>(now.all_sent_bytes + now.remaining_bytes + in_vain) >
                                              kMostSent * static_cast<double>(limits.memory_bytes);
  const bool was_futile = before != nullptr && before->futile && outlook.pages != RoundPages::kCalm;
  const bool gives_up = outlook.certain || (decision.futile && (is_dear || was_futile));
  decision.pages = outlook.pages;
  const bool fits = last_of_memory <= for_last_pages && now.remaining_bytes <= now.all_sent_bytes;
  if (now.remaining_bytes == 0 || (fits && (gives_up || !is_first_time))) {
    decision.for_mirrored = now.mirrored_bytes != 0 && last_pages > for_last_pages;
    if (!decision.for_mirrored) {
      decision.step = NextStep::kSwitchover;
      return decision;
    }
    // Memory's own round is as it would be; that it needs none is no reason to hold the guest back.
    decision.most_bytes = kWhole;
    return decision;
  }
  if (gives_up && MayTurn(limits)) {
    decision.step = NextStep::kPostcopy;
    return decision;
  }
  if (is_first_time) {
    const bool quiet =
        static_cast<double>(now.dirtied_bytes - now.again_bytes) <= kQuietPart * static_cast<double>(now.sent_bytes);
    decision.most_bytes = quiet ? std::max(2 * now.sent_bytes, PartOf(limits)) : PartOf(limits);
    return decision;
  }
  if (gives_up) {
    decision.step = NextStep::kThrottle;
    decision.throttle_percent =
        now.throttle_percent == 0 ? kFirstThrottle : std::min(now.throttle_percent + kThrottleStep, kMaxThrottle);
  }
  // Little goes in vain while it is not known that it helps.
  if (MayTurn(limits)) {
    decision.most_bytes = PartOf(limits);
  } else if (decision.futile && decision.throttle_percent < kMaxThrottle) {
    decision.most_bytes = std::max(PartOf(limits), static_cast<uint64_t>(PerSecond(now.sent_bytes, now.took) *
                                                                         absl::ToDoubleSeconds(kThrottledRound)));
  } else {
    decision.most_bytes = kWhole;
  }
  return decision;
}

}  // namespace ferrite::migration
