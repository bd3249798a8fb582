#include "migration/placing/fault_server.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "base/thread_class.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {
namespace {

// What a fault thread waits for.
enum Wakeup : uint32_t { kFault = 1, kAnswer = 2, kStop = 4 };

}  // namespace

absl::StatusOr<std::unique_ptr<FaultServer>> FaultServer::Create(const Host& host, Userfault& userfault,
                                                                 Landscape& landscape,
                                                                 std::span<const std::unique_ptr<Stream>> urgent,
                                                                 WaitAccounts& waits, ReceiveFigures& figures,
                                                                 Callbacks callbacks, bool ask_again) {
  FERRITE_ASSIGN_OR_RETURN(EventFd stop, EventFd::Create());
  std::unique_ptr<FaultServer> server(
      new FaultServer(host, userfault, landscape, waits, figures, std::move(callbacks), std::move(stop)));
  if (ask_again) {
    FERRITE_RETURN_IF_ERROR(server->AskAgain(*urgent[0]));
  }
  server->threads_.reserve(std::max<size_t>(urgent.size(), 1));
  for (size_t i = 0; i < std::max<size_t>(urgent.size(), 1); ++i) {
    Stream* const stream = i < urgent.size() ? urgent[i].get() : nullptr;
    // What the thread needs is here before it is: a fault thread that ends early leaves the guest waiting.
    FERRITE_ASSIGN_OR_RETURN(Fd epoll, server->WatchAll(stream));
    FERRITE_ASSIGN_OR_RETURN(
        Thread thread,
        host.threads.Start(absl::StrCat("mig-fault-", i), ThreadClass::kUrgent,
                           [self = server.get(), stream, epoll = std::make_shared<Fd>(std::move(epoll))] {
                             if (const absl::Status status =
                                     CatchOutOfMemory([&] { return self->Serve(*epoll, stream); });
                                 !status.ok()) {
                               self->callbacks_.on_failure(status);
                             }
                           }));
    server->threads_.push_back(std::move(thread));
  }
  return server;
}

FaultServer::FaultServer(const Host& host, Userfault& userfault, Landscape& landscape, WaitAccounts& waits,
                         ReceiveFigures& figures, Callbacks callbacks, EventFd stop)
    : host_(host),
      userfault_(userfault),
      landscape_(landscape),
      waits_(waits),
      figures_(figures),
      callbacks_(std::move(callbacks)),
      stop_(std::move(stop)) {}

FaultServer::~FaultServer() {
  stop_.Signal();
  threads_.clear();
}

absl::Status FaultServer::AskAgain(Stream& stream) {
  std::vector<uint8_t> requests;
  for (size_t index = 0; index < landscape_.regions(); ++index) {
    const PageStates& states = landscape_.states(index);
    for (uint64_t unit = 0; unit < states.units(); ++unit) {
      if (states.Get(unit) == PageState::kRequested) {
        AddRequest(index, unit, requests);
      }
    }
  }
  return requests.empty() ? absl::OkStatus() : stream.WriteAll(std::span<const uint8_t>(requests));
}

void FaultServer::AddRequest(size_t region, uint64_t unit, std::vector<uint8_t>& requests) {
  const uint64_t per_unit = landscape_.placer(region).pages_per_unit();
  const auto header = EncodePageHeader({.type = PageFrameType::kRequest,
                                        .region = static_cast<uint16_t>(region),
                                        .first_page = unit * per_unit,
                                        .count = static_cast<uint32_t>(per_unit)});
  requests.insert(requests.end(), header.begin(), header.end());
}

absl::StatusOr<Fd> FaultServer::WatchAll(Stream* stream) const {
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  // A fault wakes one of the threads (EPOLLEXCLUSIVE), not all of them: the others would take the vCPUs' time to find
  // nothing.
  epoll_event fault{.events = EPOLLIN | EPOLLEXCLUSIVE, .data = {.u32 = kFault}};
  epoll_event answer{.events = EPOLLIN, .data = {.u32 = kAnswer}};
  epoll_event stop{.events = EPOLLIN, .data = {.u32 = kStop}};
  if (!epoll.valid() || epoll_ctl(epoll.get(), EPOLL_CTL_ADD, userfault_.fd(), &fault) != 0 ||
      (stream != nullptr && epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stream->fd(), &answer) != 0) ||
      epoll_ctl(epoll.get(), EPOLL_CTL_ADD, stop_.fd(), &stop) != 0) {
    return ErrnoStatus("fault thread: epoll");
  }
  return epoll;
}

absl::Status FaultServer::Serve(const Fd& epoll, Stream* stream) {
  std::optional<PageReceiver> receiver;
  if (stream != nullptr) {
    receiver.emplace(*stream, landscape_, figures_);
  }
  while (true) {
    epoll_event ready[3];
    const int count = epoll_wait(epoll.get(), ready, std::size(ready), -1);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoStatus("fault thread: epoll_wait");
    }
    uint32_t wakeups = 0;
    for (const epoll_event& event : std::span(ready, static_cast<size_t>(count))) {
      wakeups |= event.data.u32;
    }
    if ((wakeups & kStop) != 0) {
      return absl::OkStatus();
    }
    // The fault was given to this thread alone, and an answer may be long.
    if ((wakeups & kFault) != 0) {
      FERRITE_RETURN_IF_ERROR(TakeFaults(stream));
    }
    if ((wakeups & kAnswer) != 0) {
      FERRITE_ASSIGN_OR_RETURN(const PageHeader header, receiver->ReceiveOne(/*live=*/true));
      waits_.End(header.region, header.first_page, header.count, host_.clock.Now());
      callbacks_.on_page();
    }
  }
}

absl::Status FaultServer::TakeFaults(Stream* stream) {
  std::array<Fault, 16> faults;
  FERRITE_ASSIGN_OR_RETURN(const size_t count, userfault_.Read(faults));
  std::vector<uint8_t> requests;
  for (size_t i = 0; i < count; ++i) {
    const absl::Status status = CatchOutOfMemory([&] { return Handle(faults[i], requests); });
    if (!status.ok() && stream != nullptr) {
      return status;
    }
    if (!status.ok()) {
      // There is no connection that could end. Who faulted waits until there is one again.
      callbacks_.on_failure(status);
    }
  }
  if (requests.empty() || stream == nullptr) {
    return absl::OkStatus();
  }
  return stream->WriteAll(std::span<const uint8_t>(requests));
}

absl::Status FaultServer::Handle(const Fault& fault, std::vector<uint8_t>& requests) {
  for (size_t index = 0; index < landscape_.regions(); ++index) {
    const std::span<uint8_t> memory = landscape_.region(index).guest_mapping();
    const uint64_t start = reinterpret_cast<uint64_t>(memory.data());
    if (fault.address < start || fault.address - start >= memory.size()) {
      continue;
    }
    Placer& placer = landscape_.placer(index);
    const uint64_t per_unit = placer.pages_per_unit();
    const uint64_t page = (fault.address - start) / kPageBytes;
    const uint64_t unit = page / per_unit;
    // The account is opened before the page is looked for, or its arrival could be missed.
    waits_.Begin(fault.thread, index, page, host_.clock.Now());
    if (landscape_.states(index).Request(unit)) {
      figures_.faults.fetch_add(1, std::memory_order_relaxed);
      AddRequest(index, unit, requests);
      return absl::OkStatus();
    }
    switch (landscape_.states(index).Get(unit)) {
      case PageState::kPresent: {
        figures_.minor_faults.fetch_add(1, std::memory_order_relaxed);
        const absl::Status status = placer.ResolvePresent(unit);
        waits_.End(index, page, 1, host_.clock.Now());
        return placer.Explain(status);
      }
      case PageState::kPoisoned:
        return placer.ResolvePoisoned(unit);
      case PageState::kAbsent:
      case PageState::kRequested:
      case PageState::kReceiving:
        // Somebody asked for it, or it is on its way; whoever places it wakes the waiting.
        return absl::OkStatus();
    }
  }
  return absl::InternalError(absl::StrFormat("a fault at %#x, outside of guest memory", fault.address));
}

}  // namespace ferrite::migration
