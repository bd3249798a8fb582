#include "migration/session/arrival/channels.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/channel/connection_lost.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/version.h"

namespace ferrite::migration {
namespace {

bool GoesOnWithFewer(const Arrival& arrival) { return (arrival.terms.features & kFeatureFewer) != 0; }

// `ended`: the source has said so of all that comes. With GoesOnWithFewer() it may send more, of what another channel
// lost.
absl::Status ReceivePages(Arrival& arrival, PageFeed& feed, bool live, bool& ended) {
  const bool may_go_on = GoesOnWithFewer(arrival);
  PageReceiver receiver(feed, *arrival.placement, arrival.shared.figures(), Showing::kGathered);
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const PageHeader header, receiver.ReceiveOne(live));
    if (header.type != PageFrameType::kRound) {
      if (live) {
        if (std::exchange(ended, false)) {
          arrival.watch.ReopenChannel();
        }
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
      if (!std::exchange(ended, true)) {
        arrival.watch.EndChannel();
      }
      if (!may_go_on) {
        return absl::OkStatus();
      }
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

// Channels that are lost within this time are lost together: a source that ended is no channel that broke.
constexpr absl::Duration kTogether = absl::Seconds(1);

// A channel was lost that nothing comes over any more, and no other one: the source sends again what was on its way.
absl::Status GoOnWithout(Arrival& arrival, size_t channel, const absl::Status& why) {
  arrival.link.page()[channel]->Shutdown();
  FERRITE_RETURN_IF_ERROR(TellMissing(arrival, [&](std::vector<PageRange> missing, bool last) {
    return arrival.peer().Send(
        message::Broken{.channel = static_cast<uint16_t>(channel), .missing = std::move(missing), .last = last});
  }));
  if (arrival.link.BreaksWithin(arrival.host.clock, kTogether)) {
    return absl::OkStatus();
  }
  ++arrival.shared.figures().broken_channels;
  IfThereIsMemory([&] {
    arrival.host.log.Warn(
        absl::StrCat("receive: page channel ", channel, " broke (", why.message(), "); the others go on"));
  });
  return absl::OkStatus();
}

// Of a channel that was shut down when all was here. The source may have taken that for a loss, and waits for the word.
void TellThatNothingIsMissing(Arrival& arrival, size_t channel) {
  if (arrival.shared.whole) {
    (void)arrival.peer().Send(message::Broken{.channel = static_cast<uint16_t>(channel), .missing = {}, .last = true});
  }
}

// The thread of a page channel.
void Receive(Arrival& arrival, size_t channel, bool live) {
  ArrivalLink& link = arrival.link;
  bool ended = false;
  absl::Status status = CatchOutOfMemory([&] { return ReceivePages(arrival, *link.page()[channel], live, ended); });
  const bool is_lost = IsConnectionLost(status);
  if (is_lost && GoesOnWithFewer(arrival) && arrival.shared.state().get() == MoveState::kPostcopyActive &&
      !link.broken().cancelled() && link.LoseOne(channel)) {
    if (!ended) {
      arrival.watch.EndChannel();
    }
    status = CatchOutOfMemory([&] { return GoOnWithout(arrival, channel, status); });
  } else if (link.EndOne(channel)) {
    TellThatNothingIsMissing(arrival, channel);
  }
  if (!status.ok() && !(is_lost && arrival.shared.whole)) {
    link.broken().Cancel(status);
  }
}

absl::Status OnBroken(Arrival& arrival, const message::Broken& broken) {
  ArrivalLink& link = arrival.link;
  if (broken.channel >= link.page().size() || !broken.missing.empty() || !broken.last) {
    return absl::InvalidArgumentError(
        absl::StrCat("BROKEN: page channel ", broken.channel, " of ", link.page().size(), ", or pages"));
  }
  if (link.AskOne(broken.channel)) {
    TellThatNothingIsMissing(arrival, broken.channel);
  }
  // Its thread does the rest.
  link.page()[broken.channel]->Shutdown();
  return absl::OkStatus();
}

void HearOfBroken(Arrival& arrival) {
  if (GoesOnWithFewer(arrival)) {
    arrival.peer().SetOnBroken([&arrival](const message::Broken& broken) { return OnBroken(arrival, broken); });
  }
}

}  // namespace

absl::Status StartReceivers(Arrival& arrival, bool live) {
  arrival.watch.Begin();
  ArrivalLink& link = arrival.link;
  // One that started is never the one that there is no room for.
  link.receivers.reserve(link.page().size());
  HearOfBroken(arrival);
  for (size_t channel = 0; channel < link.page().size(); ++channel) {
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread, arrival.host.threads.Start(absl::StrCat("mig-recv-", channel), ThreadClass::kBulk,
                                                  [&arrival, channel, live] { Receive(arrival, channel, live); }));
    link.receivers.push_back(std::move(thread));
  }
  return absl::OkStatus();
}

void ReceiveNothing(Arrival& arrival) {
  for (size_t channel = 0; channel < arrival.link.page().size(); ++channel) {
    (void)arrival.link.EndOne(channel);
  }
  HearOfBroken(arrival);
}

absl::Status TellMissing(const Arrival& arrival,
                         absl::FunctionRef<absl::Status(std::vector<PageRange> missing, bool last)> tell) {
  std::vector<PageRange> missing;
  for (size_t index = 0; index < arrival.placement->regions(); ++index) {
    if (arrival.placement->mirrored(index)) {
      continue;
    }
    const PageStates& states = arrival.placement->states(index);
    const uint64_t per_unit = arrival.placement->placer(index).pages_per_unit();
    for (uint64_t unit = 0; unit < states.units(); ++unit) {
      const PageState state = states.Get(unit);
      if (state == PageState::kPresent || state == PageState::kPoisoned) {
        continue;
      }
      const uint64_t page = unit * per_unit;
      if (!missing.empty() && missing.back().region == index && missing.back().first + missing.back().count == page) {
        missing.back().count += per_unit;
        continue;
      }
      if (missing.size() == kMaxRanges) {
        FERRITE_RETURN_IF_ERROR(tell(std::exchange(missing, {}), /*last=*/false));
      }
      missing.push_back({.region = static_cast<uint16_t>(index), .first = page, .count = per_unit});
    }
  }
  return tell(std::move(missing), /*last=*/true);
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
