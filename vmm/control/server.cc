#include "vmm/control/server.h"

#include <capnp/rpc-twoparty.h>
#include <kj/async-io.h>
#include <kj/async-unix.h>
#include <kj/debug.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/patient_memory.h"
#include "base/status.h"
#include "base/thread.h"
#include "vmm/control/bounded_stream.h"
#include "vmm/control/control_service.h"
#include "vmm/control/rpc_util.h"
#include "vmm/control/work_queue.h"

namespace ferrite {
namespace {

// Events that the loop has not taken yet; a guest that resets in a loop must not fill memory.
constexpr size_t kMaxPublished = 256;
// Only a watcher that does not read what it watches makes the end wait that long. One on a busy machine must get it:
// the last event of a move is the only word that it succeeded (R10).
constexpr kj::Duration kLastWords = 5 * kj::SECONDS;
// A client that has said nothing for so long only takes a place.
constexpr kj::Duration kFirstMessage = 10 * kj::SECONDS;
constexpr kj::Duration kAcceptRetry = 100 * kj::MILLISECONDS;
// Before all is begun again.
constexpr absl::Duration kBeginAgain = absl::Milliseconds(50);
// Events between two looks at the descriptors. Without a limit those that have more to read whenever somebody looks
// keep the loop from all others, and from its end.
constexpr kj::uint kEventsInARow = 64;

using kj::LowLevelAsyncIoProvider;
using FdObserver = kj::UnixEventPort::FdObserver;

capnp::ReaderOptions Limits() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = ControlServer::kMaxMessageBytes / sizeof(capnp::word);
  options.nestingLimit = 16;
  return options;
}

// "to tcp:192.0.2.7:4000: active, round 3"
std::string SummaryOf(const MoveStatus& move) {
  std::string text = absl::StrCat("to ", move.where, ": ", migration::MoveStateName(move.progress.state));
  if (move.over) {
    absl::StrAppend(&text, move.result.ok() ? "" : ": ", move.result.message());
  } else if (move.progress.round > 0) {
    absl::StrAppend(&text, ", round ", move.progress.round);
  }
  return text;
}

// "root to /images/new.img: ready"
std::string SummaryOf(const MirrorStatus& mirror) {
  std::string text =
      absl::StrCat(mirror.disk, " to ", mirror.target, ": ", migration::MirrorStateName(mirror.figures.state));
  if (mirror.over) {
    absl::StrAppend(&text, mirror.result.ok() ? "" : ": ", mirror.result.message());
  } else if (!mirror.figures.cause.empty()) {
    absl::StrAppend(&text, ": ", mirror.figures.cause);
  }
  return text;
}

// One client. kj's objects refer to each other: the order of the members matters.
struct Connection {
  Connection(kj::Own<kj::AsyncCapabilityStream> stream, ControlShared& shared, kj::Timer& timer,
             kj::Function<void(const kj::Exception&)> failed)
      : activity(std::make_shared<ClientActivity>(ClientActivity{.idle_since = timer.now()})),
        messages(kj::mv(stream), {.max_open_calls = ControlServer::kMaxOpenCalls}, kj::mv(failed)),
        // Descriptors are only sent, but the RPC system sends none unless it would take one.
        network(messages, 1, capnp::rpc::twoparty::Side::SERVER, Limits()),
        rpc(capnp::makeRpcServer(network, kj::heap<ControlService>(shared, activity))),
        silence(timer.afterDelay(kFirstMessage).then([this] { messages.HangIfSilent(); }).eagerlyEvaluate(nullptr)) {}

  const std::shared_ptr<ClientActivity> activity;
  BoundedStream messages;
  capnp::TwoPartyVatNetwork network;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc;
  kj::Promise<void> silence;
};

// What lives on the control thread.
class ServerLoop final : private kj::TaskSet::ErrorHandler {
 public:
  ServerLoop(kj::AsyncIoContext& io, int listener, std::function<void()> idle, ControlShared& shared,
             PatientMemory& memory)
      : io_(io),
        listener_(listener),
        memory_(memory),
        idle_(std::move(idle)),
        listener_observer_(io.unixEventPort, listener, FdObserver::OBSERVE_READ),
        shared_(shared),
        tasks_(*this),
        accepting_(AcceptLoop().fork()) {}

  // Fails when no client is accepted any more.
  kj::Promise<void> Accepting() { return accepting_.addBranch(); }

  // Reads no more messages of anybody.
  void StopReading() {
    for (Connection* client : clients_) {
      client->messages.StopReading();
    }
  }
  void DropAllForMemory() {
    DropAll();
    // The log's writer waits for memory on this thread.
    LogOnce("dropped all clients", "this host has no memory left for them");
  }
  void DropAll() {
    for (Connection* client : clients_) {
      client->messages.Drop();
    }
  }

 private:
  // One client at a time: there may always be one more.
  kj::Promise<void> AcceptLoop() {
    if (!memory_.Refill()) {
      return io_.provider->getTimer().afterDelay(kAcceptRetry).then([this] { return AcceptLoop(); });
    }
    Fd client(accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    const int error = errno;
    if (!client.valid() && error == EAGAIN) {
      return listener_observer_.whenBecomesReadable().then([this] { return AcceptLoop(); });
    }
    if (!client.valid() && error != EINTR && error != ECONNABORTED) {
      // No descriptors or no memory: nothing would tell when there are some again.
      LogOnce("cannot accept a client", ErrnoStatus(error, "accept").message());
      return io_.provider->getTimer().afterDelay(kAcceptRetry).then([this] { return AcceptLoop(); });
    }
    if (client.valid()) {
      Admit(std::move(client));
    }
    return kj::evalLater([this] { return AcceptLoop(); });
  }

  void Admit(Fd client) {
    ucred peer = {};
    socklen_t size = sizeof(peer);
    if (getsockopt(client.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        (peer.uid != geteuid() && peer.uid != 0)) {
      LogOnce("refused a client", fmt::format("user {} may not control this machine", peer.uid));
      return;
    }
    // Clients that were dropped are still about to end their connection.
    const bool room = clients_.size() < ControlServer::kMaxClients || DropLongestIdle();
    if (!room || connections_ >= 2 * ControlServer::kMaxClients) {
      LogOnce("refused a client", fmt::format("{} are connected", connections_));
      return;
    }
    auto stream = io_.lowLevelProvider->wrapUnixSocketFd(
        client.Release(), LowLevelAsyncIoProvider::TAKE_OWNERSHIP | LowLevelAsyncIoProvider::ALREADY_NONBLOCK |
                              LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
    auto connection =
        kj::heap<Connection>(kj::mv(stream), shared_, io_.provider->getTimer(), [this](const kj::Exception& exception) {
          if (exception.getType() != kj::Exception::Type::DISCONNECTED) {
            // The client's connection is still to be ended.
            IfThereIsMemory([&] { LogOnce("dropped a client", Summary(exception)); });
          }
        });
    auto gone = connection->network.onDisconnect();
    clients_.push_back(connection.get());
    ++connections_;
    auto leave = kj::defer([this, client = connection.get()] { Gone(client); });
    tasks_.add(gone.attach(kj::mv(leave), kj::mv(connection)));
  }

  // False when all are at something.
  bool DropLongestIdle() {
    Connection* longest = nullptr;
    for (Connection* client : clients_) {
      if (client->activity->busy == 0 &&
          (longest == nullptr || client->activity->idle_since < longest->activity->idle_since)) {
        longest = client;
      }
    }
    if (longest == nullptr) {
      return false;
    }
    LogOnce("dropped a client", fmt::format("{} are connected, and it was idle for the longest time", clients_.size()));
    clients_.remove(longest);
    longest->messages.Drop();
    return true;
  }

  void Gone(Connection* client) {
    clients_.remove(client);
    if (--connections_ == 0 && idle_) {
      idle_();
    }
  }

  // A client that tries again and again must not fill the log.
  void LogOnce(absl::string_view what, absl::string_view why) {
    Log().log(std::exchange(warned_, true) ? spdlog::level::debug : spdlog::level::warn, "control: {}: {}", what, why);
  }

  void taskFailed(kj::Exception&& exception) override {
    IfThereIsMemory([&] { LogOnce("a connection failed", Summary(exception)); });
  }

  kj::AsyncIoContext& io_;
  const int listener_;
  PatientMemory& memory_;
  const std::function<void()> idle_;
  FdObserver listener_observer_;
  ControlShared& shared_;
  std::list<Connection*> clients_;  // but those that were dropped
  size_t connections_ = 0;          // with those
  bool warned_ = false;
  kj::TaskSet tasks_;
  kj::ForkedPromise<void> accepting_;  // uses all of the above
};

class RpcControlServer final : public ControlServer {
 public:
  RpcControlServer(Fd listener, EventFd wake, EventFd no_memory, const ControlTarget& target)
      : target_(target), listener_(std::move(listener)), wake_(std::move(wake)), no_memory_(std::move(no_memory)) {}

  ~RpcControlServer() override {
    // First the work, whose answers the loop still has to send.
    work_.Close();
    {
      absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    wake_.Signal();
    thread_.Join();
  }

  absl::Status Start() {
    FERRITE_RETURN_IF_ERROR(work_.Start("control-work"));
    absl::Notification started;
    absl::Status status;
    FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start("control", [this, &started, &status] { Serve(started, status); }));
    started.WaitForNotification();
    return status;
  }

  void Publish(const MachineEvent& event) override {
    Publish({.event = event, .unix_ms = absl::ToUnixMillis(absl::Now())});
  }
  void Publish(const MoveStatus& move) override {
    Publish({.event = {MachineEvent::Kind::kMove, SummaryOf(move)},
             .move = move,
             .unix_ms = absl::ToUnixMillis(absl::Now())});
  }
  void Publish(const MirrorStatus& mirror) override {
    Publish({.event = {MachineEvent::Kind::kMirror, SummaryOf(mirror)},
             .mirror = mirror,
             .unix_ms = absl::ToUnixMillis(absl::Now())});
  }

  void BeginEnd() override { work_.BeginEnd(); }

  void SetTarget(ControlTarget target) override {
    {
      absl::MutexLock lock(&mutex_);
      new_target_ = std::move(target);
    }
    wake_.Signal();
  }

 private:
  void Publish(TimedEvent event) {
    {
      absl::MutexLock lock(&mutex_);
      if (published_.size() == kMaxPublished) {
        published_.pop_front();
        ++missed_;
      }
      published_.push_back(std::move(event));
    }
    wake_.Signal();
  }

  // `started` when it serves, or when it could not, with `could_start`. They are gone then.
  void Serve(absl::Notification& started, absl::Status& could_start) {
    absl::Notification* waiting = &started;
    const auto begun = [&] {
      if (absl::Notification* const notification = std::exchange(waiting, nullptr); notification != nullptr) {
        notification->Notify();
      }
    };
    while (true) {
      const absl::Status ran = Caught([&] { Run(begun); });
      if (waiting != nullptr) {
        could_start = ran;
        begun();
        return;
      }
      if (ran.ok() || IsEnding()) {
        return;
      }
      // No client keeps the others, and those that come, from the machine: it is reachable as long as it is there.
      IfThereIsMemory([&] { Log().warn("control: all clients were dropped: {}", std::string(ran.message())); });
      absl::SleepFor(kBeginAgain);
    }
  }

  static absl::Status Caught(absl::FunctionRef<void()> body) {
    return CatchOutOfMemory([&]() -> absl::Status {
      try {
        body();
        return absl::OkStatus();
      } catch (const kj::Exception& exception) {
        // kj tells the errno by its text only.
        const std::string summary = Summary(exception);
        return absl::StrContains(summary, strerror(EMFILE))
                   ? ErrnoStatus(EMFILE, "start the control server")
                   : absl::InternalError(absl::StrCat("control server: ", summary));
      }
    });
  }

  bool IsEnding() {
    absl::MutexLock lock(&mutex_);
    return ending_;
  }

  void Run(absl::FunctionRef<void()> begun) {
    KjLogRedirect log;
    // kj's promises do not survive an allocation that fails.
    PatientMemory memory(no_memory_);
    auto io = kj::setupAsyncIo();
    io.waitScope.setBusyPollInterval(kEventsInARow);
    {
      ControlShared shared{.target = target_, .work = work_, .timer = io.provider->getTimer()};
      ServerLoop loop(io, listener_.get(), target_.idle, shared, memory);
      FdObserver wake(io.unixEventPort, wake_.fd(), FdObserver::OBSERVE_READ);
      FdObserver no_memory(io.unixEventPort, no_memory_.fd(), FdObserver::OBSERVE_READ);
      begun();
      // What was left behind when this failed before.
      bool ending = DeliverPublished(shared);
      while (!ending) {
        loop.Accepting()
            .exclusiveJoin(wake.whenBecomesReadable())
            .exclusiveJoin(no_memory.whenBecomesReadable())
            .wait(io.waitScope);
        wake_.Drain();
        if (no_memory_.Drain() > 0) {
          // What they have sent and asked for is what there is to give back.
          loop.DropAllForMemory();
        }
        ending = DeliverPublished(shared);
      }
      // Watchers hear of the end before the connection goes, if they listen; the answers that are due go into the
      // sockets' buffers.
      auto patience = io.provider->getTimer().afterDelay(kLastWords);
      shared.AllTaken().exclusiveJoin(kj::mv(patience)).wait(io.waitScope);
      // What is left to do is bounded only when nothing more is asked for.
      loop.StopReading();
      io.waitScope.poll();
      // The calls that still wait end with their connections, and that takes the loop, too.
      loop.DropAll();
      io.waitScope.poll();
    }
  }

  // Whether the server is to end.
  bool DeliverPublished(ControlShared& shared) {
    std::deque<TimedEvent> events;
    uint64_t missed = 0;
    bool ending = false;
    std::optional<ControlTarget> target;
    {
      absl::MutexLock lock(&mutex_);
      target = std::exchange(new_target_, std::nullopt);
      events.swap(published_);
      missed = std::exchange(missed_, 0);
      ending = ending_;
    }
    if (target.has_value()) {
      target_ = *std::move(target);
    }
    shared.AddMissed(missed);
    for (const TimedEvent& event : events) {
      shared.Deliver(event);
    }
    return ending;
  }

  ControlTarget target_;  // of the control thread
  const Fd listener_;
  const EventFd wake_;
  const EventFd no_memory_;
  WorkQueue work_{{.last = kMaxAllOperations, .next = kMaxStops}};

  absl::Mutex mutex_;
  std::deque<TimedEvent> published_ ABSL_GUARDED_BY(mutex_);
  uint64_t missed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<ControlTarget> new_target_ ABSL_GUARDED_BY(mutex_);

  Thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Create(Fd listener, ControlTarget target) {
  FERRITE_ASSIGN_OR_RETURN(EventFd wake, EventFd::Create());
  FERRITE_ASSIGN_OR_RETURN(EventFd no_memory, EventFd::Create());
  auto server = std::make_unique<RpcControlServer>(std::move(listener), std::move(wake), std::move(no_memory), target);
  FERRITE_RETURN_IF_ERROR(server->Start());
  return server;
}

}  // namespace ferrite
