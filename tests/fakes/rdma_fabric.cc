#include "tests/fakes/rdma_fabric.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/timed_mutex.h"

namespace ferrite::migration {
namespace {

using Side = RdmaWire::Side;
using Call = RdmaWire::Call;
using End = Verbs::End;

// What a listener keeps, and how long.
constexpr size_t kMostCallers = 64;
constexpr absl::Duration kPatience = absl::Seconds(10);

class Registered final : public RegisteredMemory {
 public:
  Registered(std::shared_ptr<RdmaWire> wire, uint32_t key, std::span<uint8_t> memory)
      : wire_(std::move(wire)), key_(key), memory_(memory) {}
  ~Registered() override { wire_->Deregister(key_); }

  std::span<uint8_t> bytes() const override { return memory_; }
  uint32_t local_key() const override { return key_; }
  uint32_t remote_key() const override { return key_; }

 private:
  const std::shared_ptr<RdmaWire> wire_;
  const uint32_t key_;
  const std::span<uint8_t> memory_;
};

class FabricPair final : public QueuePair {
 public:
  // Of sides that are joined.
  FabricPair(std::shared_ptr<RdmaWire> wire, std::unique_ptr<Side> side)
      : wire_(std::move(wire)), side_(std::move(side)) {}
  ~FabricPair() override { wire_->Leave(*side_); }

  absl::Status PostWrite(uint64_t id, const LocalPiece& from, const RemotePiece& to) override {
    return Post(id, WorkKind::kWrite, Call::kPostWrite, from, to);
  }
  absl::Status PostRead(uint64_t id, const LocalPiece& into, const RemotePiece& from) override {
    return Post(id, WorkKind::kRead, Call::kPostRead, into, from);
  }
  absl::Status PostSend(uint64_t id, const LocalPiece& message) override {
    return Post(id, WorkKind::kSend, Call::kPostSend, message, {});
  }
  absl::Status PostReceive(uint64_t id, const LocalPiece& into) override {
    return Post(id, WorkKind::kReceive, Call::kPostReceive, into, {});
  }
  absl::StatusOr<size_t> TakeCompletions(std::span<Completion> into) override { return wire_->Take(*side_, into); }
  int fd() const override { return side_->event.fd(); }
  absl::Status Arm() override {
    wire_->Arm(*side_);
    return absl::OkStatus();
  }
  void Break() override { wire_->Break(*side_); }
  bool broken() const override { return wire_->broken(*side_); }

 private:
  absl::Status Post(uint64_t id, WorkKind kind, Call call, const LocalPiece& local, const RemotePiece& remote) {
    FERRITE_CHECK(local.memory != nullptr);
    const Side::Work work = {
        .id = id, .kind = kind, .local_key = local.memory->local_key(), .local = local.bytes, .remote = remote};
    return wire_->Post(*side_, work, call);
  }

  const std::shared_ptr<RdmaWire> wire_;
  const std::unique_ptr<Side> side_;
};

// Who waits in Connect().
struct Caller {
  std::string greeting;
  uint64_t domain = 0;
  QueuePairTerms terms;
  MonotonicTime came;
  std::optional<EventFd> answered;
  // One of these when it is answered.
  std::unique_ptr<QueuePair> accepted;
  bool refused = false;
};

absl::Status Wait(const Clock& clock, const EventFd& event, const EventFd& cancel, MonotonicTime deadline,
                  absl::string_view what) {
  std::array<pollfd, 2> polled = {pollfd{.fd = event.fd(), .events = POLLIN, .revents = 0},
                                  pollfd{.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
  const absl::Duration left = deadline - clock.Now();
  if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError(absl::StrCat(what, ": nobody in time"));
  clock.PollFor(polled, left);
  if (polled[1].revents != 0) return absl::CancelledError(absl::StrCat(what, ": cancelled"));
  return absl::OkStatus();
}

}  // namespace

namespace internal {

// Where callers meet listeners.
class RdmaPorts {
 public:
  struct Listener {
    explicit Listener(EventFd event) : came(std::move(event)) {}
    const EventFd came;
    std::deque<Caller*> callers;
  };

  RdmaPorts(std::shared_ptr<RdmaWire> wire, const Clock& clock) : wire_(std::move(wire)), clock_(clock) {}

  absl::StatusOr<uint16_t> Listen() {
    FERRITE_ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
    const TimedMutexLock lock(&mutex_);
    listeners_.emplace(next_port_, std::move(event));
    return next_port_++;
  }

  void Close(uint16_t port) {
    const TimedMutexLock lock(&mutex_);
    for (Caller* caller : listeners_.at(port).callers) Refuse(*caller);
    listeners_.erase(port);
  }

  absl::StatusOr<std::unique_ptr<QueuePair>> Accept(uint16_t port, uint64_t domain, absl::string_view greeting,
                                                    const QueuePairTerms& terms, MonotonicTime deadline,
                                                    const EventFd& cancel) {
    const std::string what = absl::StrCat("accept at rdma port ", port);
    FERRITE_RETURN_IF_ERROR(wire_->Step(Call::kAccept, End::kHere));
    const EventFd* came = nullptr;
    while (true) {
      {
        const TimedMutexLock lock(&mutex_);
        Listener& listener = listeners_.at(port);
        came = &listener.came;
        came->Drain();
        Forget(listener);
        for (auto caller = listener.callers.begin(); caller != listener.callers.end(); ++caller) {
          if ((*caller)->greeting != greeting) continue;
          FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<QueuePair> pair, Answer(**caller, domain, terms));
          listener.callers.erase(caller);
          return pair;
        }
      }
      FERRITE_RETURN_IF_ERROR(Wait(clock_, *came, cancel, deadline, what));
    }
  }

  absl::StatusOr<std::unique_ptr<QueuePair>> Connect(uint16_t port, Caller& caller, MonotonicTime deadline,
                                                     const EventFd& cancel) {
    const std::string what = absl::StrCat("connect to rdma port ", port);
    FERRITE_RETURN_IF_ERROR(wire_->Step(Call::kConnect, End::kThere));
    if (caller.greeting.size() > kMostGreeting) return absl::InvalidArgumentError(absl::StrCat(what, ": its greeting"));
    FERRITE_ASSIGN_OR_RETURN(caller.answered, EventFd::Create());
    caller.came = clock_.Now();
    {
      const TimedMutexLock lock(&mutex_);
      const auto listener = listeners_.find(port);
      if (listener == listeners_.end()) return absl::UnavailableError(absl::StrCat(what, ": nobody listens"));
      Forget(listener->second);
      if (listener->second.callers.size() >= kMostCallers)
        return absl::UnavailableError(absl::StrCat(what, ": rejected"));
      listener->second.callers.push_back(&caller);
      listener->second.came.Signal();
    }
    while (true) {
      absl::Status waited = Wait(clock_, *caller.answered, cancel, deadline, what);
      const TimedMutexLock lock(&mutex_);
      if (caller.accepted != nullptr) return std::move(caller.accepted);
      if (caller.refused) return absl::UnavailableError(absl::StrCat(what, ": rejected"));
      if (waited.ok()) continue;
      if (const auto listener = listeners_.find(port); listener != listeners_.end()) {
        std::erase(listener->second.callers, &caller);
      }
      return waited;
    }
  }

 private:
  static void Refuse(Caller& caller) {
    caller.refused = true;
    caller.answered->Signal();
  }

  // Those that have waited too long.
  void Forget(Listener& listener) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (!listener.callers.empty() && clock_.Now() - listener.callers.front()->came > kPatience) {
      Refuse(*listener.callers.front());
      listener.callers.pop_front();
    }
  }

  absl::StatusOr<std::unique_ptr<QueuePair>> Answer(Caller& caller, uint64_t domain, const QueuePairTerms& terms)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    FERRITE_ASSIGN_OR_RETURN(EventFd there, EventFd::Create());
    FERRITE_ASSIGN_OR_RETURN(EventFd here, EventFd::Create());
    const size_t connection = wire_->NewConnection(caller.greeting);
    auto source = std::make_unique<Side>(End::kThere, caller.domain, caller.terms, connection, std::move(there));
    auto destination = std::make_unique<Side>(End::kHere, domain, terms, connection, std::move(here));
    wire_->Join(*source, *destination);
    caller.accepted = std::make_unique<FabricPair>(wire_, std::move(source));
    caller.answered->Signal();
    return std::make_unique<FabricPair>(wire_, std::move(destination));
  }

  const std::shared_ptr<RdmaWire> wire_;
  const Clock& clock_;
  TimedMutex mutex_;
  uint16_t next_port_ ABSL_GUARDED_BY(mutex_) = 18515;
  std::map<uint16_t, Listener> listeners_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace internal

namespace {

using Ports = internal::RdmaPorts;

class FabricListener final : public QueuePairListener {
 public:
  FabricListener(std::shared_ptr<Ports> ports, uint16_t port, uint64_t domain)
      : ports_(std::move(ports)), port_(port), domain_(domain) {}
  ~FabricListener() override { ports_->Close(port_); }

  uint16_t port() const override { return port_; }
  absl::StatusOr<std::unique_ptr<QueuePair>> Accept(absl::string_view greeting, const QueuePairTerms& terms,
                                                    MonotonicTime deadline, const EventFd& cancel) override {
    return ports_->Accept(port_, domain_, greeting, terms, deadline, cancel);
  }

 private:
  const std::shared_ptr<Ports> ports_;
  const uint16_t port_;
  const uint64_t domain_;
};

class FabricDomain final : public VerbsDomain {
 public:
  FabricDomain(std::shared_ptr<RdmaWire> wire, std::shared_ptr<Ports> ports, End end)
      : wire_(std::move(wire)), ports_(std::move(ports)), end_(end), domain_(wire_->NewDomain()) {}

  absl::StatusOr<std::unique_ptr<RegisteredMemory>> Register(std::span<uint8_t> memory, MemoryAccess access) override {
    FERRITE_ASSIGN_OR_RETURN(const uint32_t key, wire_->Register(end_, domain_, memory, access));
    return std::make_unique<Registered>(wire_, key, memory);
  }
  absl::StatusOr<std::unique_ptr<QueuePairListener>> Listen() override {
    FERRITE_RETURN_IF_ERROR(wire_->Step(Call::kListen, end_));
    FERRITE_ASSIGN_OR_RETURN(const uint16_t port, ports_->Listen());
    return std::make_unique<FabricListener>(ports_, port, domain_);
  }
  absl::StatusOr<std::unique_ptr<QueuePair>> Connect(uint16_t port, absl::string_view greeting,
                                                     const QueuePairTerms& terms, MonotonicTime deadline,
                                                     const EventFd& cancel) override {
    Caller caller = {.greeting = std::string(greeting), .domain = domain_, .terms = terms};
    return ports_->Connect(port, caller, deadline, cancel);
  }
  uint64_t most_registration() const override { return uint64_t{1} << 40; }

 private:
  const std::shared_ptr<RdmaWire> wire_;
  const std::shared_ptr<Ports> ports_;
  const End end_;
  const uint64_t domain_;
};

}  // namespace

RdmaFabric::RdmaFabric(const Clock& clock)
    : wire_(std::make_shared<RdmaWire>()), ports_(std::make_shared<internal::RdmaPorts>(wire_, clock)) {}

absl::StatusOr<std::shared_ptr<VerbsDomain>> RdmaFabric::Open(absl::string_view, End end, MonotonicTime,
                                                              const EventFd&) {
  FERRITE_RETURN_IF_ERROR(wire_->Step(Call::kOpen, end));
  return std::make_shared<FabricDomain>(wire_, ports_, end);
}

absl::StatusOr<std::vector<VerbsDevice>> RdmaFabric::Devices() {
  return std::vector<VerbsDevice>{{.name = "fabric0",
                                   .transport = "RoCE",
                                   .port_state = "active",
                                   .most_registration = uint64_t{1} << 40,
                                   .most_registrations = 1 << 16,
                                   .most_queue_pairs = 1 << 10,
                                   .on_demand_paging = false,
                                   .net_devices = {"eth0"}}};
}

}  // namespace ferrite::migration
