#include "migration/session/arrival/settling.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/placing/incoming_part.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"

namespace ferrite::migration {
namespace {

// A guest that runs here already when this side is to end: its memory is waited for while it comes, not without an end.
constexpr absl::Duration kIdleWhenLeaving = absl::Seconds(2);
constexpr absl::Duration kMostWhenLeaving = absl::Seconds(5);

// Wakes the watch when the link breaks, and when this side is to end.
class WatchWaker {
 public:
  explicit WatchWaker(Arrival& arrival)
      : watch_(arrival.watch),
        on_broken_(arrival.link.broken(), [this](const absl::Status&) { watch_.Wake(); }),
        on_leave_(arrival.shared.leave(), [this](const absl::Status&) { watch_.Wake(); }) {}

 private:
  ReceiveWatch& watch_;
  const CancelToken::Callback on_broken_;
  const CancelToken::Callback on_leave_;
};

absl::Status AwaitAllPages(Arrival& arrival) {
  const CancelToken& broken = arrival.link.broken();
  ReceiveWatch& watch = arrival.watch;
  const WatchWaker waker(arrival);
  uint64_t missing = 0;
  bool leaving = false;
  MonotonicTime until = MonotonicTime::InfiniteFuture();
  while (!arrival.shared.whole && !broken.cancelled()) {
    const auto news = [&] { return arrival.shared.whole || broken.cancelled() || arrival.leaving() != leaving; };
    if (watch.Await(news, leaving ? kIdleWhenLeaving : arrival.options.silence)) {
      if (!leaving && arrival.leaving()) {
        leaving = true;
        missing = arrival.placement->missing();
        until = arrival.Now() + kMostWhenLeaving;
      }
      continue;
    }
    const uint64_t before = std::exchange(missing, arrival.placement->missing());
    if (leaving && (missing == before || arrival.Now() >= until)) {
      return absl::CancelledError(
          absl::StrCat("this side is to end, and ", missing, " host pages have not come in time"));
    }
    // When the source has sent all that it had, only answers to requests are still on their way.
    if (watch.ended_channels() == arrival.link.page().size() && missing == before) {
      return absl::UnavailableError(absl::StrCat("the source ended, but ", missing, " host pages never came"));
    }
  }
  return arrival.shared.whole ? absl::OkStatus() : broken.reason();
}

// All is here: ends the page channels, whatever the source does, and the faults' threads.
void EndChannels(Arrival& arrival) {
  ArrivalLink& link = arrival.link;
  if (arrival.postcopy()) {
    ReceiveWatch& watch = arrival.watch;
    const WatchWaker waker(arrival);
    const auto ended = [&] { return watch.ended_channels() == link.page().size() || link.broken().cancelled(); };
    if (watch.Await([&] { return ended() || arrival.leaving(); }, arrival.options.silence) && arrival.leaving()) {
      (void)watch.Await(ended, kIdleWhenLeaving);
    }
    if (link.faults != nullptr) {
      link.faults->End();
    }
    // One may be in the middle of a frame, of pages that are here, or of a source that never ends.
    link.ShutChannelsDown();
  }
  link.EndThreads();
}

// Tells of pages that came as lost.
void TellLost(Arrival& arrival) {
  std::vector<uint64_t> pages;
  for (const GuestAddress page : arrival.machine->memory().LostPages()) {
    pages.push_back(page.value());
  }
  if (pages.empty()) {
    return;
  }
  arrival.host.log.Warn(absl::StrCat("receive: ", pages.size(), " pages of the guest are lost since before it came, ",
                                     "the first at 0x", absl::Hex(pages[0])));
  arrival.shared.TellLost(std::move(pages));
}

absl::Status SettleIn(Arrival& arrival) {
  // Nobody may place anything when faults are the kernel's again.
  EndChannels(arrival);
  for (IncomingPart* part : arrival.parts) {
    FERRITE_RETURN_IF_ERROR(part->Settle());
  }
  arrival.shared.figures().moved_pages = arrival.memory->moved_pages();
  IfThereIsMemory([&] { TellLost(arrival); });
  absl::Status after = arrival.machine->resources().SetLocked(true);
  // The balloon's.
  after.Update(arrival.undo.Run());
  if (!after.ok()) {
    // The guest is here and runs; that it is not locked is no reason to lose it.
    IfThereIsMemory(
        [&] { arrival.host.log.Error(absl::StrCat("receive: the guest's memory is not locked: ", after.message())); });
  }
  arrival.settled = true;
  return absl::OkStatus();
}

absl::Status TellThatAllIsHere(Arrival& arrival) {
  arrival.shared.TellEntryWait(arrival.machine->guest().EntryWait());
  MoveReport report = arrival.shared.report();
  return arrival.peer().Send(message::Shut{.ok = true,
                                           .message = "",
                                           .figures = {.faults = report.faults,
                                                       .minor_faults = report.minor_faults,
                                                       .duplicate_pages = report.duplicate_pages,
                                                       .waiting = std::move(report.waiting),
                                                       .host_wait = report.destination_wait,
                                                       .entry_wait = report.entry_wait}});
}

absl::Status AwaitHeard(Arrival& arrival) {
  const MonotonicTime deadline = arrival.Now() + arrival.options.patience;
  // END may come before or after SHUT was sent.
  while (true) {
    const absl::Duration left = deadline - arrival.Now();
    const absl::StatusOr<Message> message =
        arrival.peer().Next(std::clamp(left, absl::ZeroDuration(), kIdleWhenLeaving));
    if (message.ok() && std::holds_alternative<message::Heard>(*message)) {
      return absl::OkStatus();
    }
    const bool over = arrival.leaving() || left <= absl::ZeroDuration();
    if (!message.ok() && (over || !absl::IsDeadlineExceeded(message.status()))) {
      // A source that does not say that it heard closes when it did.
      return (arrival.terms.features & kFeatureRecovery) != 0 ? message.status() : absl::OkStatus();
    }
    if (over) {
      return absl::DeadlineExceededError("the source did not say in time that it heard that all is here");
    }
  }
}

}  // namespace

absl::Status ReceiveTheRest(Arrival& arrival) {
  FERRITE_RETURN_IF_ERROR(Annotate(AwaitAllPages(arrival), "post-copy"));
  if (!arrival.settled) {
    FERRITE_RETURN_IF_ERROR(Annotate(SettleIn(arrival), "end"));
  }
  FERRITE_RETURN_IF_ERROR(Annotate(TellThatAllIsHere(arrival), "end"));
  return Annotate(AwaitHeard(arrival), "end");
}

}  // namespace ferrite::migration
