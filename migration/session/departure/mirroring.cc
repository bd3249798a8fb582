#include "migration/session/departure/mirroring.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/sending/page_source.h"
#include "migration/sending/send_figures.h"
#include "migration/session/departure/rounds.h"

namespace ferrite::migration {
namespace {

// Of a round.
constexpr absl::Duration kCut = absl::Milliseconds(500);
constexpr uint64_t kMostInCut = uint64_t{1} << 30;

// Of all mirrored parts the one of which most is left, for messages.
absl::string_view Name(Departure& departure) {
  const OutgoingPart* worst = nullptr;
  uint64_t most = 0;
  for (const OutgoingPart* part : departure.parts) {
    if (part->mirrored() && (worst == nullptr || departure.pages().PendingBytes(*part) > most)) {
      worst = part;
      most = departure.pages().PendingBytes(*part);
    }
  }
  return worst->name();
}

double PerSecond(uint64_t bytes, absl::Duration took) {
  return static_cast<double>(bytes) / std::max(absl::ToDoubleSeconds(took), 1e-6);
}

std::string Rate(double bytes_per_second) {
  return absl::StrCat(static_cast<uint64_t>(bytes_per_second / (1 << 20)), " MiB/s");
}

absl::Status CannotKeepUp(Departure& departure, double rate, absl::Duration would_take) {
  return absl::FailedPreconditionError(absl::StrCat(
      Name(departure), " is written faster than it can be copied: at ", Rate(departure.mirror_dirty_rate),
      ", and copied at ", Rate(rate), "; what is left, ", departure.pages().PendingBytes(WhichParts::kMirrored) >> 10,
      " KiB, would take ", absl::FormatDuration(would_take), ", and the downtime limit is ",
      absl::FormatDuration(departure.options.downtime_limit)));
}

bool IsOverTime(const Departure& departure) {
  const MoveOptions& options = departure.options;
  // The move goes on without its rounds, once these are ready.
  const bool goes_on = departure.shared.postcopy_wanted ||
                       (options.on_timeout == OnTimeout::kPostcopy && departure.shared.postcopy_possible);
  return !goes_on && departure.Now() - departure.started > options.timeout;
}

MirroredLimits LimitsOf(const Departure& departure) {
  return {.downtime_limit = departure.options.downtime_limit, .fixed_downtime = departure.load_estimate};
}

// Before a round, at the rate so far.
MirroredTrend TrendOf(const Departure& departure) {
  return {.rate = departure.mirror_rate, .last_rate = departure.mirror_rate, .blocking = !departure.blocking.empty()};
}

// One round over what is left, until the destination has it, and what was written meanwhile. It is cut, so that a
// destination has little to write out at once, and who waits hears of it.
absl::StatusOr<MirroredRound> RunRound(Departure& departure) {
  const SendFigures& figures = departure.shared.figures();
  const MonotonicTime start = departure.Now();
  const uint64_t pages_before = figures.mirrored_pages;
  const uint64_t bytes_before = figures.mirrored_bytes;
  while (true) {
    std::atomic<bool> cut = false;
    const MonotonicTime cut_start = departure.Now();
    const uint64_t cut_bytes = figures.mirrored_bytes;
    const auto stop = [&] {
      if (departure.link.broken().cancelled() || IsOverTime(departure)) {
        return true;
      }
      if (departure.Now() - cut_start >= kCut || figures.mirrored_bytes - cut_bytes >= kMostInCut) {
        cut = true;
      }
      return cut.load();
    };
    FERRITE_RETURN_IF_ERROR(SendRound(departure, stop, /*last=*/false, RoundPages::kAll, WhichParts::kMirrored));
    FERRITE_RETURN_IF_ERROR(CheckGoingOn(departure));
    FERRITE_RETURN_IF_ERROR(AwaitArrival(departure));
    if (!cut) {
      break;
    }
    ++departure.cuts;
  }
  TellDelivered(departure);
  const absl::Duration took = departure.Now() - start;
  FERRITE_ASSIGN_OR_RETURN(const PageSource::Dirty dirty, departure.pages().CollectDirty(WhichParts::kMirrored));
  departure.mirror_dirty_rate = PerSecond(dirty.mirrored_bytes, took);
  departure.progress.dirty_rate = departure.mirror_dirty_rate;
  return MirroredRound{.sent_bytes = (figures.mirrored_pages - pages_before) * kPageBytes,
                       .wire_bytes = figures.mirrored_bytes - bytes_before,
                       .took = took,
                       .remaining_bytes = departure.pages().PendingBytes(WhichParts::kMirrored)};
}

}  // namespace

absl::Status NotCopiedInTime(Departure& departure) {
  return absl::DeadlineExceededError(absl::StrCat(
      Name(departure), " was not copied in ", absl::FormatDuration(departure.options.timeout), ": it is written at ",
      Rate(departure.mirror_dirty_rate), ", and copied at ", Rate(departure.mirror_rate)));
}

void TellDelivered(Departure& departure) {
  if (!departure.blocking.empty() && departure.pages().PendingBytes(WhichParts::kMirrored) == 0) {
    departure.blocking.Delivered();
  }
}

absl::Status CatchUp(Departure& departure) {
  MirroredDecision last{.trend = TrendOf(departure)};
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const MirroredRound now, RunRound(departure));
    last = DecideMirroredRound(now, last.trend, LimitsOf(departure));
    departure.mirror_rate = last.trend.rate;
    departure.progress.expected_downtime = departure.load_estimate + last.last_bytes;
    if (last.step == MirroredStep::kReady) {
      return absl::OkStatus();
    }
    if (IsOverTime(departure)) {
      return NotCopiedInTime(departure);
    }
    if (last.step == MirroredStep::kGiveUp || (last.step == MirroredStep::kBlock && !departure.StartBlocking())) {
      return CannotKeepUp(departure, last.trend.rate, last.last_bytes);
    }
  }
}

absl::Status Mirror(Departure& departure) {
  if (departure.mirrored_ready) {
    return absl::OkStatus();
  }
  if (!departure.copies_mirrored) {
    departure.copies_mirrored = true;
    FERRITE_RETURN_IF_ERROR(departure.pages().Start(WhichParts::kMirrored));
  }
  FERRITE_RETURN_IF_ERROR(CatchUp(departure));
  departure.mirrored_ready = true;
  departure.TellReady();
  return CheckGoingOn(departure);
}

absl::Status KeepingUp::Judge(const RoundFigures& now, const ConvergenceLimits& limits, Decision& decision) {
  departure_.mirror_dirty_rate = PerSecond(now.mirrored_dirtied_bytes, now.took);
  // What is copied for them slows memory's rounds down: who writes to them waits before the guest is held back.
  const bool they_are_most = now.mirrored_wire_bytes > now.wire_bytes;
  if (decision.step == NextStep::kThrottle && now.throttle_percent == 0 && they_are_most &&
      departure_.blocking.empty() && departure_.StartBlocking()) {
    decision.step = NextStep::kRound;
    decision.throttle_percent = 0;
    return absl::OkStatus();
  }
  if (!decision.for_mirrored) {
    trend_ = {};
    return absl::OkStatus();
  }
  if (trend_.rate == 0) {
    trend_ = TrendOf(departure_);
  }
  trend_.blocking = !departure_.blocking.empty();
  const MirroredDecision mirror = DecideMirroredRound({.sent_bytes = now.sent_bytes + now.mirrored_sent_bytes,
                                                       .wire_bytes = now.wire_bytes + now.mirrored_wire_bytes,
                                                       .took = now.took,
                                                       .remaining_bytes = now.remaining_bytes + now.mirrored_bytes},
                                                      trend_, LimitsOf(departure_));
  trend_ = mirror.trend;
  departure_.mirror_rate = trend_.rate;
  const bool may_turn = limits.mode != MoveMode::kPrecopy && limits.postcopy_possible;
  if (mirror.step == MirroredStep::kReady) {
    decision.step = NextStep::kSwitchover;
  } else if (mirror.step != MirroredStep::kRound && may_turn) {
    // By themselves they may fit.
    decision.step = NextStep::kPostcopy;
  } else if (mirror.step == MirroredStep::kGiveUp ||
             (mirror.step == MirroredStep::kBlock && !departure_.StartBlocking())) {
    return CannotKeepUp(departure_, trend_.rate, mirror.last_bytes);
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
