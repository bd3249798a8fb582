#include "migration/session/departure/rounds.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "memory/guest_address.h"
#include "migration/protocol/messages.h"
#include "migration/sending/convergence.h"
#include "migration/sending/page_source.h"
#include "migration/sending/send_figures.h"
#include "migration/session/departure/mirroring.h"
#include "migration/session/departure/resuming.h"
#include "migration/session/departure/switchover.h"

namespace ferrite::migration {
namespace {

// Of memory, while somebody waits for what is written to mirrored parts: for so long at once, but not less than that.
constexpr absl::Duration kCut = absl::Milliseconds(20);
constexpr int64_t kLeastCut = int64_t{2} << 20;

bool IsOverTime(const Departure& departure) { return departure.Now() - departure.started > departure.options.timeout; }

bool StopsRound(Departure& departure) {
  return departure.link.broken().cancelled() || departure.shared.postcopy_wanted || IsOverTime(departure);
}

// Of memory, those that are zero among them. Mirrored pages count before they are sent, so that these are never more,
// and may be less than none.
int64_t SentBytes(Departure& departure) {
  const SendFigures& figures = departure.shared.figures();
  const uint64_t sent =
      figures.data_pages.load(std::memory_order_acquire) + figures.zero_pages.load(std::memory_order_acquire);
  const uint64_t mirrored = figures.mirrored_pages.load(std::memory_order_relaxed);
  return static_cast<int64_t>((sent - mirrored) * kPageBytes);
}

// One round while the guest runs, as it was decided, and what the guest has written meanwhile: since `collected`, which
// is set anew. `before` is the round before it, or null.
absl::StatusOr<RoundFigures> RunRound(Departure& departure, const Decision& plan, const RoundFigures* before,
                                      const ConvergenceLimits& limits, MonotonicTime& collected) {
  const SendFigures& figures = departure.shared.figures();
  const int64_t sent_before = SentBytes(departure);
  const uint64_t wire_before = figures.bytes;
  const uint64_t mirrored_before = figures.mirrored_pages;
  const uint64_t mirrored_wire_before = figures.mirrored_bytes;
  const uint64_t part = FirstRound(limits).most_bytes;
  PageSource& pages = departure.pages();
  uint64_t mirrored_dirtied = 0;
  // It is cut for who waits for what it wrote to arrive, and so that less goes again when the connection is lost.
  const bool blocks = !departure.blocking.empty();
  while (true) {
    std::atomic<bool> cut = false;
    const MonotonicTime cut_start = departure.Now();
    const int64_t sent_in_cuts = SentBytes(departure) - sent_before;
    FERRITE_RETURN_IF_ERROR(SendRound(
        departure,
        [&] {
          const int64_t sent = SentBytes(departure) - sent_before;
          if (StopsRound(departure) || (sent >= 0 && static_cast<uint64_t>(sent) >= plan.most_bytes)) {
            return true;
          }
          const absl::Duration most = blocks && sent - sent_in_cuts >= kLeastCut ? kCut : BlockingParts::kMostHeld;
          if ((blocks || departure.can_resume()) && departure.Now() - cut_start >= most) {
            cut = true;
          }
          return cut.load();
        },
        /*last=*/false, plan.pages));
    if (blocks) {
      FERRITE_RETURN_IF_ERROR(AwaitArrival(departure));
      TellDelivered(departure);
    } else if (departure.can_resume()) {
      FERRITE_RETURN_IF_ERROR(AskForArrival(departure));
    }
    if (!cut) {
      break;
    }
    ++departure.cuts;
    FERRITE_RETURN_IF_ERROR(CheckGoingOn(departure));
    if (!blocks || pages.PendingBytes(WhichParts::kMirrored) != 0) {
      // Nobody waits, or memory has had no turn.
      continue;
    }
    FERRITE_ASSIGN_OR_RETURN(const PageSource::Dirty written, pages.CollectDirty(WhichParts::kMirrored));
    mirrored_dirtied += written.mirrored_bytes;
  }
  FERRITE_ASSIGN_OR_RETURN(const PageSource::Dirty dirty, pages.CollectDirty());
  mirrored_dirtied += dirty.mirrored_bytes;
  const MonotonicTime start = std::exchange(collected, departure.Now());
  const auto sent = static_cast<uint64_t>(SentBytes(departure) - sent_before);
  const uint64_t mirrored_wire = figures.mirrored_bytes - mirrored_wire_before;
  return RoundFigures{.pages = plan.pages,
                      .sent_bytes = sent,
                      .wire_bytes = figures.bytes - wire_before - mirrored_wire,
                      .all_sent_bytes = sent + (before != nullptr ? before->all_sent_bytes : 0),
                      .took = collected - start,
                      .dirtied_bytes = dirty.bytes,
                      .again_bytes = dirty.again_bytes,
                      .remaining_bytes = pages.PendingBytes(WhichParts::kOthers),
                      .unsent_bytes = pages.PendingBytes(RoundPages::kUnsent, part),
                      .calm_bytes = pages.PendingBytes(RoundPages::kCalm, part),
                      .mirrored_sent_bytes = (figures.mirrored_pages - mirrored_before) * kPageBytes,
                      .mirrored_wire_bytes = mirrored_wire,
                      .mirrored_dirtied_bytes = mirrored_dirtied,
                      .mirrored_bytes = pages.PendingBytes(WhichParts::kMirrored),
                      .throttle_percent = departure.progress.throttle_percent};
}

// Mirrored parts are ready for a switchover that leaves memory behind. What takes time without them comes before: they
// are written meanwhile.
absl::Status LeaveMemory(Departure& departure) {
  FERRITE_RETURN_IF_ERROR(AwaitAnswer(departure));
  FERRITE_RETURN_IF_ERROR(TellStaleEarly(departure));
  return CatchUp(departure);
}

void Tell(Departure& departure, const RoundFigures& round, const Decision& decision) {
  MoveProgress& progress = departure.progress;
  progress.rate = RateOf(round);
  progress.dirty_rate = static_cast<double>(round.dirtied_bytes) / std::max(absl::ToDoubleSeconds(round.took), 1e-6);
  progress.expected_downtime = decision.expected_downtime;
  progress.throttle_percent = decision.throttle_percent;
  departure.Publish(Departure::Rate::kIsKnown);
}

}  // namespace

// Megabytes may wait in the connections, and the package would have to wait for them while the guest stands still. The
// answer to a DISCARD, here of nothing, comes when the rounds before it are in place.
absl::Status AwaitArrival(Departure& departure) {
  FERRITE_RETURN_IF_ERROR(AskForArrival(departure));
  return AwaitAnswer(departure);
}

absl::Status AskForArrival(Departure& departure) {
  FERRITE_RETURN_IF_ERROR(AwaitAnswer(departure));
  departure.pages().AskForArrival();
  departure.asked = true;
  return departure.peer().Send(message::Discard{.ranges = {}, .last = true});
}

absl::Status AwaitAnswer(Departure& departure) {
  if (!departure.asked) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(departure.Await<message::Discarded>().status());
  departure.asked = false;
  if (departure.pages().Arrived()) {
    departure.lost_since.reset();
  }
  return absl::OkStatus();
}

absl::Status CheckGoingOn(Departure& departure) {
  return departure.cancelled() ? absl::CancelledError("cancelled") : departure.peer().failure();
}

absl::Status SendRound(Departure& departure, absl::FunctionRef<bool()> stop, bool last, RoundPages pages,
                       WhichParts parts) {
  ++departure.round;
  if (!last) {
    departure.Publish(Departure::Rate::kFromHere);
  }
  absl::Status status = departure.pages().SendRound(departure.round, stop, pages, parts);
  if (!status.ok() && !absl::IsResourceExhausted(status)) {
    // The channels were shut down when the control connection was lost.
    absl::Status lost = departure.peer().failure();
    status = lost.ok() ? status : lost;
  }
  FERRITE_RETURN_IF_ERROR(status);
  return departure.peer().Send(message::Round{.number = departure.round, .last = last});
}

namespace {

// Rounds of memory, until it can be left or what is left of it fits.
absl::Status RunRounds(Departure& departure) {
  const MoveOptions& options = departure.options;
  const bool postcopy_possible = departure.shared.postcopy_possible;
  const ConvergenceLimits limits{.mode = options.mode,
                                 .downtime_limit = options.downtime_limit,
                                 .fixed_downtime = departure.load_estimate,
                                 .postcopy_possible = postcopy_possible,
                                 .memory_bytes = departure.memory_bytes};
  std::optional<RoundFigures> last;
  KeepingUp keeping_up(departure);
  MonotonicTime collected = departure.Now();
  Decision decision = FirstRound(limits);
  while (true) {
    const RoundFigures* const before = last.has_value() ? &*last : nullptr;
    FERRITE_ASSIGN_OR_RETURN(RoundFigures now, RunRound(departure, decision, before, limits, collected));
    decision = DecideNext(now, before, limits);
    now.futile = decision.futile;
    const bool is_over_time = IsOverTime(departure);
    const bool turns_over_time = is_over_time && options.on_timeout == OnTimeout::kPostcopy && postcopy_possible;
    absl::Status kept_up;
    if (departure.mirrors && !departure.shared.postcopy_wanted && !turns_over_time) {
      kept_up = keeping_up.Judge(now, limits, decision);
    }
    Tell(departure, now, decision);
    FERRITE_RETURN_IF_ERROR(CheckGoingOn(departure));
    // That the time is over says more.
    FERRITE_RETURN_IF_ERROR(is_over_time ? absl::OkStatus() : kept_up);
    departure.postcopy =
        departure.shared.postcopy_wanted || (decision.step != NextStep::kSwitchover &&
                                             (is_over_time ? turns_over_time : decision.step == NextStep::kPostcopy));
    if (departure.postcopy) {
      return departure.mirrors ? LeaveMemory(departure) : AwaitAnswer(departure);
    }
    if (decision.step == NextStep::kSwitchover) {
      return AwaitArrival(departure);
    }
    if (is_over_time && decision.for_mirrored) {
      return NotCopiedInTime(departure);
    }
    if (is_over_time) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the guest dirties memory faster than it can be sent: not done in ", absl::FormatDuration(options.timeout)));
    }
    if (decision.throttle_percent != now.throttle_percent) {
      FERRITE_RETURN_IF_ERROR(departure.machine.run().SetThrottle(decision.throttle_percent));
    }
    last = now;
  }
}

// From where it was. What has begun is not begun anew.
absl::Status Copy(Departure& departure) {
  const MoveOptions& options = departure.options;
  if (departure.mirrors) {
    // Storage there may stall for longer than a link does; whether that lives, the control channel tells.
    departure.pages().SetPatience(std::max(options.silence, options.patience));
    FERRITE_RETURN_IF_ERROR(Mirror(departure));
  }
  if (!departure.copies_memory) {
    // Until here the guest has not paid for its writes to memory.
    FERRITE_RETURN_IF_ERROR(departure.mirrors ? departure.StartTracking(WhichParts::kOthers) : absl::OkStatus());
    departure.copies_memory = true;
    const absl::Status started = departure.pages().Start(WhichParts::kOthers);
    departure.memory_bytes = departure.pages().PendingBytes(WhichParts::kOthers);
    departure.shared.not_begun_bytes = 0;
    FERRITE_RETURN_IF_ERROR(started);
  }
  if (options.mode == MoveMode::kPostcopy || departure.postcopy) {
    departure.postcopy = true;
    FERRITE_RETURN_IF_ERROR(SendRound(
        departure, [] { return true; }, /*last=*/false));
    return departure.mirrors ? LeaveMemory(departure) : absl::OkStatus();
  }
  return RunRounds(departure);
}

}  // namespace

absl::Status Rounds(Departure& departure) {
  departure.peer().SetSilence(departure.options.silence);
  // Where its thread cannot be made, nothing has begun.
  FERRITE_RETURN_IF_ERROR(departure.mirrors ? departure.blocking.Start() : absl::OkStatus());
  FERRITE_RETURN_IF_ERROR(departure.StartTracking(departure.mirrors ? WhichParts::kMirrored : WhichParts::kOthers));
  departure.undo.Push([&departure](const absl::Status&) {
    // Both do not fail.
    (void)departure.machine.run().SetThrottle(0);
    departure.StopTracking();
    return absl::OkStatus();
  });
  if (departure.mirrors) {
    for (size_t i = 0; i < departure.regions.size(); ++i) {
      departure.shared.not_begun_bytes += departure.region_is_mirrored[i] ? 0 : departure.regions[i].bytes;
    }
  }
  absl::Status status = Copy(departure);
  while (!status.ok() && MayResume(departure, status)) {
    FERRITE_RETURN_IF_ERROR(Resume(departure, status));
    status = TakeBackLost(departure);
    status = status.ok() ? Copy(departure) : status;
  }
  return status;
}

}  // namespace ferrite::migration
