#include "migration/session/arrival/channels.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {
namespace {

absl::Status ReceivePages(Arrival& arrival, PageFeed& feed, bool live) {
  PageReceiver receiver(feed, *arrival.placement, arrival.shared.figures(), Showing::kGathered);
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const PageHeader header, receiver.ReceiveOne(live));
    if (header.type != PageFrameType::kRound) {
      if (live) {
        // A unit that came in several frames is here with the last one.
        const PageRun units =
            arrival.placement->WholeUnits(header.region, {.first = header.first_page, .count = header.count});
        arrival.waits->End(header.region, units.first, units.count, arrival.Now());
        arrival.OnPage();
      }
    } else if (live) {
      if (header.count != kLastRound) {
        return absl::InvalidArgumentError("page frame: another round in post-copy");
      }
      // The end shows what was gathered of the last block.
      arrival.OnPage();
      arrival.watch.EndChannel();
      return absl::OkStatus();
    } else {
      FERRITE_ASSIGN_OR_RETURN(const RoundGate::Next next, arrival.gate->Arrive(header.count));
      if (next == RoundGate::Next::kEnd) {
        // The guest's memory is its own from here on, whatever else may come.
        return absl::OkStatus();
      }
      live = next == RoundGate::Next::kLive;
    }
  }
}

}  // namespace

absl::Status StartReceivers(Arrival& arrival, bool live) {
  arrival.watch.Begin();
  ArrivalLink& link = arrival.link;
  // One that started is never the one that there is no room for.
  link.receivers.reserve(link.page().size());
  for (const auto& feed : link.page()) {
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread,
        arrival.host.threads.Start(
            absl::StrCat("mig-recv-", link.receivers.size()), ThreadClass::kBulk, [&arrival, feed = feed.get(), live] {
              const absl::Status status = CatchOutOfMemory([&] { return ReceivePages(arrival, *feed, live); });
              if (!status.ok()) {
                arrival.link.broken().Cancel(status);
              }
            }));
    link.receivers.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

absl::Status ServeFaults(Arrival& arrival, bool asks_again) {
  ArrivalLink& link = arrival.link;
  link.faults.reset();
  for (const auto& feed : link.page()) {
    feed->PreferLatency();
  }
  if (asks_again) {
    // Who faulted on a page that could not be placed has been forgotten: it faults again.
    for (IncomingPart* part : arrival.parts) {
      FERRITE_RETURN_IF_ERROR(part->WakeWaiting());
    }
  }
  const auto on_failure = [&arrival, connected = !link.urgent().empty()](const absl::Status& status) {
    if (connected) {
      arrival.link.broken().Cancel(status);
    } else {
      IfThereIsMemory([&] { arrival.host.log.Warn(absl::StrCat("receive: ", status.message())); });
    }
  };
  FERRITE_ASSIGN_OR_RETURN(
      link.faults,
      FaultServer::Create(arrival.host, *arrival.memory, *arrival.placement, arrival.requests, link.urgent(),
                          *arrival.waits, arrival.shared.figures(),
                          {.on_failure = on_failure, .on_page = [&arrival] { arrival.OnPage(); }}, asks_again));
  return absl::OkStatus();
}

}  // namespace ferrite::migration
