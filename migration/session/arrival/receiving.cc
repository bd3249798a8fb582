#include "migration/session/arrival/receiving.h"

#include <sys/types.h>
#include <unistd.h>

#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "memory/page_range.h"
#include "migration/placing/placement.h"
#include "migration/placing/placer.h"
#include "migration/protocol/messages.h"
#include "migration/session/arrival/handover.h"

namespace ferrite::migration {
namespace {

absl::Status OnRound(Arrival& arrival, const message::Round& round) {
  MoveStateMachine& state = arrival.shared.state();
  if (state.get() != MoveState::kActive) {
    return absl::InvalidArgumentError("ROUND came after the last one");
  }
  FERRITE_RETURN_IF_ERROR(arrival.gate->AwaitAll(round.number));
  if (!round.last) {
    arrival.gate->Open(RoundGate::Next::kRound);
    return absl::OkStatus();
  }
  // The channels wait at the gate until PACKAGE says how pages are placed from here on. If one breaks, the source says
  // why: it may have given up, or come back.
  arrival.link.LetPeerOutlast();
  arrival.delays.emplace(gettid(), std::vector<pid_t>());
  return state.Change(MoveState::kActive, MoveState::kDevice) ? absl::OkStatus() : absl::CancelledError("cancelled");
}

// Drops the pages of `range`, which are out of date.
absl::Status Discard(Arrival& arrival, const PageRange& range, uint64_t& pages_left) {
  PageRun run{.first = range.first, .count = range.count};
  if (range.region >= arrival.placement->regions() || !arrival.placement->placer(range.region).IsWhole(run)) {
    return absl::InvalidArgumentError(absl::StrCat("DISCARD: pages ", run.first, "+", run.count, " of region ",
                                                   range.region, " are no whole host pages of it"));
  }
  if (run.count > pages_left) {
    return absl::InvalidArgumentError("DISCARD: more pages than there are");
  }
  pages_left -= run.count;
  Placer& placer = arrival.placement->placer(range.region);
  arrival.placement->doubtful().Settle(range);
  while (run.count > 0) {
    if (arrival.cancelled()) {
      return absl::CancelledError("cancelled");
    }
    FERRITE_RETURN_IF_ERROR(placer.Discard(placer.TakePiece(run)));
  }
  return absl::OkStatus();
}

absl::Status OnDiscard(Arrival& arrival, const message::Discard& discard) {
  if (arrival.loaded || arrival.postcopy()) {
    return absl::InvalidArgumentError("DISCARD came after PACKAGE");
  }
  uint64_t pages_left = arrival.placement->pages();
  for (const PageRange& range : discard.ranges) {
    FERRITE_RETURN_IF_ERROR(Discard(arrival, range, pages_left));
  }
  if (!discard.last) {
    return absl::OkStatus();
  }
  if (discard.ranges.empty()) {
    // The end of a round: its time is that of stable storage, and little is left to be written when the guest waits.
    FERRITE_RETURN_IF_ERROR(FlushMirrored(arrival));
  }
  return arrival.peer().Send(message::Discarded{});
}

absl::Status OnMessage(Arrival& arrival, const Message& message) {
  if (const auto* round = std::get_if<message::Round>(&message)) {
    return Annotate(OnRound(arrival, *round), "pre-copy");
  }
  if (const auto* discard = std::get_if<message::Discard>(&message)) {
    return Annotate(OnDiscard(arrival, *discard), "switchover");
  }
  if (const auto* package = std::get_if<message::Package>(&message)) {
    return Annotate(ApplyPackage(arrival, *package), "switchover");
  }
  if (const auto* grant = std::get_if<message::Grant>(&message)) {
    return Annotate(TakeOver(arrival, *grant), "grant");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("the source sent ", MessageName(message), " while the guest was being received"));
}

}  // namespace

absl::Status ReceiveUntilRunning(Arrival& arrival) {
  while (arrival.shared.state().get() != MoveState::kPostcopyActive) {
    // Rounds take what they take.
    const absl::StatusOr<Message> message =
        arrival.peer().Next(arrival.loaded ? arrival.options.patience : absl::InfiniteDuration());
    if (!message.ok()) {
      const absl::Status broken = arrival.link.broken().reason();
      return broken.ok() ? message.status() : broken;
    }
    if (arrival.cancelled()) {
      // Much may wait in the queue.
      return absl::CancelledError("cancelled");
    }
    FERRITE_RETURN_IF_ERROR(OnMessage(arrival, *message));
  }
  return absl::OkStatus();
}

}  // namespace ferrite::migration
