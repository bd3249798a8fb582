#include "migration/placing/fault_server.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "memory/guest_address.h"
#include "migration/placing/page_states.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {
namespace {

// What a fault thread waits for.
enum Wakeup : uint32_t { kAnswer = 1, kStop = 2, kRequest = 4 };
// And one for each descriptor of the userfaultfd.
constexpr uint32_t FaultAt(size_t descriptor) { return uint32_t{8} << descriptor; }
static_assert(FaultAt(Userfault::kMostDescriptors - 1) != 0);

PageRange UnitOf(const Placement& placement, size_t region, uint64_t unit) {
  const uint64_t per_unit = placement.placer(region).pages_per_unit();
  return {.region = static_cast<uint16_t>(region), .first = unit * per_unit, .count = per_unit};
}

}  // namespace

absl::StatusOr<std::unique_ptr<FaultServer>> FaultServer::Create(const Host& host, MemoryLanding& memory,
                                                                 Placement& placement, RequestQueue& requests,
                                                                 std::span<const std::unique_ptr<UrgentFeed>> urgent,
                                                                 WaitAccounts& waits, ReceiveFigures& figures,
                                                                 Callbacks callbacks, bool ask_again) {
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<FaultServer> server(
      new FaultServer(host, memory, placement, requests, waits, figures, std::move(callbacks), std::move(stop)));
  std::vector<PageRange> asked_again;
  if (ask_again) {
    FERRITE_ASSIGN_OR_RETURN(asked_again, server->AskAgain(*urgent[0]));
  }
  server->threads_.reserve(std::max<size_t>(urgent.size(), 1));
  for (size_t i = 0; i < std::max<size_t>(urgent.size(), 1); ++i) {
    UrgentFeed* const feed = i < urgent.size() ? urgent[i].get() : nullptr;
    // What the thread needs is here before it is: a fault thread that ends early leaves the guest waiting.
    FERRITE_ASSIGN_OR_RETURN(WaitSet set, server->WatchAll(feed, /*takes_requests=*/i == 0));
    AskedPages asked([&placement](const PageRange& unit) {
      const uint64_t per_unit = placement.placer(unit.region).pages_per_unit();
      return placement.states(unit.region).Get(unit.first / per_unit) == PageState::kRequested;
    });
    asked.Add(std::exchange(asked_again, {}), host.clock.Now());
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread,
        host.threads.Start(
            absl::StrCat("mig-fault-", i), ThreadClass::kUrgent,
            [self = server.get(), feed, set = std::make_shared<WaitSet>(std::move(set)), asked = std::move(asked)] {
              if (const absl::Status status = CatchOutOfMemory([&] { return self->Serve(*set, feed, asked); });
                  !status.ok()) {
                self->callbacks_.on_failure(status);
              }
            }));
    server->threads_.push_back(std::move(thread));
  }
  return server;
}

FaultServer::FaultServer(const Host& host, MemoryLanding& memory, Placement& placement, RequestQueue& requests,
                         WaitAccounts& waits, ReceiveFigures& figures, Callbacks callbacks, EventFd stop)
    : host_(host),
      memory_(memory),
      placement_(placement),
      requests_(requests),
      waits_(waits),
      figures_(figures),
      callbacks_(std::move(callbacks)),
      stop_(std::move(stop)) {}

FaultServer::~FaultServer() {
  stop_.Signal();
  threads_.clear();
}

absl::StatusOr<std::vector<PageRange>> FaultServer::AskAgain(UrgentFeed& feed) {
  // What is in there is requested by its state, too.
  (void)requests_.TakeAll();
  std::vector<PageRange> requests;
  for (size_t region = 0; region < placement_.regions(); ++region) {
    const PageStates& states = placement_.states(region);
    for (uint64_t unit = 0; unit < states.units(); ++unit) {
      if (states.Get(unit) == PageState::kRequested) {
        requests.push_back(UnitOf(placement_, region, unit));
      }
    }
  }
  FERRITE_RETURN_IF_ERROR(feed.Ask(requests));
  return requests;
}

absl::StatusOr<WaitSet> FaultServer::WatchAll(UrgentFeed* feed, bool takes_requests) const {
  FERRITE_ASSIGN_OR_RETURN(WaitSet set, WaitSet::Create());
  // A fault wakes one of the threads, not all of them: the others would take the vCPUs' time to find nothing.
  for (size_t i = 0; i < memory_.userfault().descriptors(); ++i) {
    FERRITE_RETURN_IF_ERROR(set.Add(memory_.userfault().fd(i), FaultAt(i), /*shared=*/true));
  }
  FERRITE_RETURN_IF_ERROR(set.Add(stop_.fd(), kStop));
  if (takes_requests) {
    FERRITE_RETURN_IF_ERROR(set.Add(requests_.event().fd(), kRequest));
  }
  if (feed != nullptr) {
    FERRITE_RETURN_IF_ERROR(feed->Join(set, kAnswer));
  }
  return set;
}

absl::Status FaultServer::Serve(WaitSet& set, UrgentFeed* feed, AskedPages asked) {
  std::optional<PageReceiver> receiver;
  if (feed != nullptr) {
    receiver.emplace(*feed, placement_, figures_, Showing::kAtOnce);
  }
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const uint32_t wakeups, AwaitSomething(set, feed, asked));
    if ((wakeups & kStop) != 0) {
      return absl::OkStatus();
    }
    // The fault was given to this thread alone, and an answer may be long.
    for (size_t i = 0; i < memory_.userfault().descriptors(); ++i) {
      if ((wakeups & FaultAt(i)) != 0) {
        FERRITE_RETURN_IF_ERROR(TakeFaults(feed, i, asked));
      }
    }
    if ((wakeups & kRequest) != 0) {
      const std::vector<PageRange> requests = requests_.TakeAll();
      figures_.faults.fetch_add(requests.size(), std::memory_order_relaxed);
      FERRITE_RETURN_IF_ERROR(Ask(feed, requests, asked));
    }
    if ((wakeups & kAnswer) != 0) {
      FERRITE_ASSIGN_OR_RETURN(const PageHeader header, receiver->ReceiveOne(/*live=*/true));
      if (header.type == PageFrameType::kKey) {
        // A word between the two ends.
        continue;
      }
      if (header.type == PageFrameType::kRound) {
        return absl::InvalidArgumentError("urgent channel: the end of a round came from the source");
      }
      const PageRun units = placement_.WholeUnits(header.region, {.first = header.first_page, .count = header.count});
      waits_.End(header.region, units.first, units.count, host_.clock.Now());
      callbacks_.on_page();
    }
  }
}

absl::StatusOr<uint32_t> FaultServer::AwaitSomething(WaitSet& set, UrgentFeed* feed, AskedPages& asked) {
  const std::optional<MonotonicTime> overdue = asked.NextAt();
  if (!overdue.has_value()) {
    return set.Wait();
  }
  const MonotonicTime now = host_.clock.Now();
  const std::vector<PageRange> again = asked.TakeOverdue(now);
  if (!again.empty()) {
    FERRITE_RETURN_IF_ERROR(feed->Ask(again));
    return 0;
  }
  return set.WaitFor(host_.clock, *overdue - now);
}

absl::Status FaultServer::Ask(UrgentFeed* feed, std::span<const PageRange> requests, AskedPages& asked) {
  if (requests.empty() || feed == nullptr) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(feed->Ask(requests));
  asked.Add(requests, host_.clock.Now());
  return absl::OkStatus();
}

absl::Status FaultServer::TakeFaults(UrgentFeed* feed, size_t descriptor, AskedPages& asked) {
  std::array<Fault, 16> faults;
  FERRITE_ASSIGN_OR_RETURN(const size_t count, memory_.userfault().Read(faults, descriptor));
  std::vector<PageRange> requests;
  for (size_t i = 0; i < count; ++i) {
    const absl::Status status = CatchOutOfMemory([&] { return Handle(faults[i], requests); });
    if (!status.ok() && feed != nullptr) {
      return status;
    }
    if (!status.ok()) {
      // There is no connection that could end. Who faulted waits until there is one again.
      callbacks_.on_failure(status);
    }
  }
  return Ask(feed, requests, asked);
}

absl::Status FaultServer::Handle(const Fault& fault, std::vector<PageRange>& requests) {
  for (size_t index = 0; index < memory_.regions(); ++index) {
    const std::span<uint8_t> memory = memory_.region(index).guest_mapping();
    const uint64_t start = reinterpret_cast<uint64_t>(memory.data());
    if (fault.address < start || fault.address - start >= memory.size()) {
      continue;
    }
    MemoryPlacer& placer = memory_.placer(index);
    const uint64_t per_unit = placer.pages_per_unit();
    const uint64_t page = (fault.address - start) / kPageBytes;
    const uint64_t unit = page / per_unit;
    // The account is opened before the page is looked for, or its arrival could be missed.
    waits_.Begin(fault.thread, index, page, host_.clock.Now());
    if (placer.states().Request(unit)) {
      figures_.faults.fetch_add(1, std::memory_order_relaxed);
      requests.push_back(UnitOf(placement_, index, unit));
      return absl::OkStatus();
    }
    switch (placer.states().Get(unit)) {
      case PageState::kPresent: {
        figures_.minor_faults.fetch_add(1, std::memory_order_relaxed);
        const absl::Status status = placer.ResolvePresent(unit);
        waits_.End(index, page, 1, host_.clock.Now());
        return placer.Explain(status);
      }
      case PageState::kPoisoned: {
        const absl::Status status = placer.ResolvePoisoned(unit);
        waits_.End(index, page, 1, host_.clock.Now());
        return status;
      }
      case PageState::kAbsent:
      case PageState::kRequested:
        // Somebody asked for it; whoever places it wakes the waiting.
        return absl::OkStatus();
      case PageState::kReceiving:
      case PageState::kAwaited: {
        const absl::StatusOr<bool> shown = placer.ShowWanted(unit);
        // It may have been shown meanwhile by whoever brought it.
        waits_.End(index, page, 1, host_.clock.Now());
        if (shown.ok() && *shown) {
          callbacks_.on_page();
        }
        return placer.Explain(shown.status());
      }
    }
  }
  return absl::InternalError(absl::StrFormat("a fault at %#x, outside of guest memory", fault.address));
}

}  // namespace ferrite::migration
