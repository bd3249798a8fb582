#include "vmm/control/client.h"

#include <capnp/rpc-twoparty.h>
#include <fcntl.h>
#include <kj/async-io.h>
#include <kj/debug.h>
#include <sys/socket.h>

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/control/bounded_stream.h"
#include "vmm/control/device_rpc.h"
#include "vmm/control/event_queue.h"
#include "vmm/control/machine_connection.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

using kj::LowLevelAsyncIoProvider;

// What answers may be anybody's program: root asks about the machines of others. A machine's description, which is the
// longest message, has a command line and the paths of some files.
constexpr size_t kMaxMessageBytes = 256 << 10;
// A monitor sends an event of a subscription when the one before it was answered.
constexpr size_t kMaxOpenCalls = 64;
// Events of the loop between two looks at the clock: else one who sends without end keeps a deadline from passing.
constexpr kj::uint kEventsInARow = 64;

capnp::ReaderOptions Limits() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kMaxMessageBytes / sizeof(capnp::word);
  options.nestingLimit = 16;
  return options;
}

// A monitor answers, and calls event sinks; the rest of the protocol is not for it to use.
void CheckFromMonitor(capnp::rpc::Message::Reader message) {
  switch (message.which()) {
    case capnp::rpc::Message::ABORT:
    case capnp::rpc::Message::RETURN:
    case capnp::rpc::Message::FINISH:
    case capnp::rpc::Message::RELEASE:
      return;
    case capnp::rpc::Message::CALL:
      KJ_REQUIRE(message.getCall().getInterfaceId() == capnp::typeId<control::EventSink>() &&
                     message.getCall().getTarget().isImportedCap(),
                 "a call to what is no event sink");
      return;
    default:
      KJ_FAIL_REQUIRE("a message of a kind that none sends");
  }
}

// kj allows one event loop in a thread.
std::shared_ptr<kj::AsyncIoContext> ThreadContext() {
  thread_local std::weak_ptr<kj::AsyncIoContext> context;
  std::shared_ptr<kj::AsyncIoContext> shared = context.lock();
  if (shared == nullptr) {
    // The lock is for the thread sanitizer: kj guards by itself what it makes once for all threads.
    static std::mutex setup;
    const std::lock_guard<std::mutex> lock(setup);
    shared = std::make_shared<kj::AsyncIoContext>(kj::setupAsyncIo());
    shared->waitScope.setBusyPollInterval(kEventsInARow);
    context = shared;
  }
  return shared;
}

MachineState FromRpc(control::State state) {
  switch (state) {
    case control::State::CREATED:
      return MachineState::kCreated;
    case control::State::PAUSED:
      return MachineState::kPaused;
    case control::State::RUNNING:
      return MachineState::kRunning;
    case control::State::STOPPED:
      break;
  }
  return MachineState::kStopped;
}

MachineEvent::Kind FromRpc(control::Event::Kind kind) {
  switch (kind) {
    case control::Event::Kind::RUNNING:
      return MachineEvent::Kind::kRunning;
    case control::Event::Kind::PAUSED:
      return MachineEvent::Kind::kPaused;
    case control::Event::Kind::RESET:
      return MachineEvent::Kind::kReset;
    case control::Event::Kind::STOPPED:
      return MachineEvent::Kind::kStopped;
    case control::Event::Kind::MOVE:
      return MachineEvent::Kind::kMove;
    case control::Event::Kind::BALLOON:
      break;
  }
  return MachineEvent::Kind::kBalloon;
}

// A server may be anybody's: what it says is shown to whoever runs the command.
std::string Copy(capnp::Text::Reader text) { return CleanText({text.cStr(), text.size()}, kMaxLongText); }

BalloonFigures ReadBalloon(control::Balloon::Reader in) {
  BalloonFigures figures;
  figures.target_bytes = in.getTargetBytes();
  figures.actual_bytes = in.getActualBytes();
  ReadList(in.getStatistics(),
           [&](auto statistic) { figures.statistics.emplace_back(Copy(statistic.getName()), statistic.getValue()); });
  return figures;
}

MachineDescription ReadDescription(control::Description::Reader in) {
  MachineDescription machine;
  machine.name = Copy(in.getName());
  machine.state = FromRpc(in.getState());
  machine.version = Copy(in.getVersion());
  machine.uptime = absl::Milliseconds(in.getUptimeMs());
  machine.cpus = in.getCpus();
  machine.memory_bytes = in.getMemoryBytes();
  machine.memory_backing = Copy(in.getMemoryBacking());
  machine.memory_resident_bytes = in.getMemoryResidentBytes();
  machine.started_ns = in.getStartedNs();
  machine.first_entry_ns = in.getFirstEntryNs();
  machine.kernel = Copy(in.getKernel());
  machine.initrd = Copy(in.getInitrd());
  machine.command_line = Copy(in.getCommandLine());
  machine.devices = ReadDevices(in);
  machine.has_balloon = in.getHasBalloon();
  machine.balloon = ReadBalloon(in.getBalloon());
  machine.console_dropped_bytes = in.getConsoleDroppedBytes();
  machine.move = ReadMove(in.getMove());
  machine.arrival = ReadMove(in.getArrival());
  return machine;
}

class Sink final : public control::EventSink::Server {
 public:
  explicit Sink(std::shared_ptr<EventQueue> queue) : queue_(std::move(queue)) {}

 protected:
  kj::Promise<void> event(EventContext context) override {
    const auto in = context.getParams().getEvent();
    queue_->Push({.event = {FromRpc(in.getKind()), CleanLines(FromKj(in.getText()), kMaxLongText)},
                  .move = ReadMove(in.getMove()),
                  .time = absl::FromUnixMillis(in.getUnixMs()),
                  .missed = in.getMissed()});
    return kj::READY_NOW;
  }

 private:
  std::shared_ptr<EventQueue> queue_;
};

// Whether it is what the console of a machine is, and nothing that a read or a write could hang on.
bool IsStreamSocket(int fd) {
  int type = 0;
  int domain = 0;
  socklen_t size = sizeof(type);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
         getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

// The process that listens at the other end, by the kernel's word (unix(7)); 0 where it is in no namespace of ours.
pid_t ListenerOf(int fd) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

class RpcControlClient final : public ControlClient {
 public:
  RpcControlClient(AskedMachine asked, MachineConnection connection, bool take_descriptors)
      : context_(ThreadContext()),
        asked_(std::move(asked)),
        directory_(std::move(connection.directory)),
        pid_(ListenerOf(connection.socket.get())),
        stream_(context_->lowLevelProvider->wrapUnixSocketFd(
                    connection.socket.Release(),
                    LowLevelAsyncIoProvider::TAKE_OWNERSHIP | LowLevelAsyncIoProvider::ALREADY_CLOEXEC),
                {.max_open_calls = kMaxOpenCalls,
                 .take_descriptors = take_descriptors,
                 .read_to_the_end = true,
                 .check = CheckFromMonitor},
                [this](const kj::Exception& exception) { Refuse(exception); }),
        network_(stream_, 1, capnp::rpc::twoparty::Side::CLIENT, Limits()),
        rpc_(capnp::makeRpcClient(network_)),
        control_(Bootstrap()) {}
  ~RpcControlClient() noexcept override = default;

  absl::StatusOr<MachineDescription> Describe() override {
    MachineDescription machine;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      return control_.describeRequest().send().then([&](auto&& response) {
        machine = ReadDescription(response.getMachine());
        return absl::OkStatus();
      });
    }));
    machine.pid = pid_;  // whoever waits for its end, or kills it, is to mean the process that answers
    return machine;
  }

  absl::Status Pause() override {
    return Wait(asked_.timeout, [&] { return ErrorOf(control_.pauseRequest().send()); });
  }
  absl::Status Resume() override {
    return Wait(asked_.timeout, [&] { return ErrorOf(control_.resumeRequest().send()); });
  }
  absl::Status Reset() override {
    return Wait(asked_.timeout, [&] { return ErrorOf(control_.resetRequest().send()); });
  }
  absl::Status Stop(bool force) override {
    return Wait(asked_.timeout, [&] {
      auto request = control_.stopRequest();
      request.setForce(force);
      return ErrorOf(request.send());
    });
  }

  absl::Status AwaitEnd() override {
    const MonotonicTime deadline = MonotonicTime::Now() + asked_.timeout;
    const absl::Status closed =
        Wait(asked_.timeout, [this] { return network_.onDisconnect().then([] { return absl::OkStatus(); }); });
    if (absl::IsDeadlineExceeded(closed)) {
      return closed;
    }
    return AwaitUnlocked(asked_, directory_, deadline);
  }

  absl::StatusOr<BalloonFigures> Balloon() override {
    BalloonFigures figures;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      return control_.balloonRequest().send().then([&](auto&& response) {
        figures = ReadBalloon(response.getBalloon());
        return ReadError(response.getError());
      });
    }));
    return figures;
  }

  absl::StatusOr<BalloonFigures> SetBalloon(uint64_t target_bytes, absl::Duration wait) override {
    BalloonFigures figures;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout + wait, [&] {
      auto request = control_.setBalloonRequest();
      request.setTargetBytes(target_bytes);
      request.setWaitMs(static_cast<uint32_t>(absl::ToInt64Milliseconds(wait)));
      return request.send().then([&](auto&& response) {
        figures = ReadBalloon(response.getBalloon());
        return ReadError(response.getError());
      });
    }));
    return figures;
  }

  absl::StatusOr<uint64_t> StartMove(const std::string& where, const migration::MoveOptions& options) override {
    uint64_t number = 0;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      auto request = control_.startMoveRequest();
      request.setDestination(ToKj(where));
      FillMoveOptions(options, request.initOptions());
      return request.send().then([&](auto&& response) {
        number = response.getNumber();
        return ReadError(response.getError());
      });
    }));
    return number;
  }
  absl::StatusOr<MoveStatus> GetMove() override {
    MoveStatus move;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      return control_.moveStatusRequest().send().then([&](auto&& response) {
        move = ReadMove(response.getMove());
        return ReadError(response.getError());
      });
    }));
    return move;
  }
  absl::Status CancelMove() override {
    return Wait(asked_.timeout, [&] { return ErrorOf(control_.cancelMoveRequest().send()); });
  }
  absl::Status StartPostcopy() override {
    return Wait(asked_.timeout, [&] { return ErrorOf(control_.startPostcopyRequest().send()); });
  }
  absl::StatusOr<uint64_t> RecoverMove(const std::string& where) override {
    uint64_t number = 0;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      auto request = control_.recoverMoveRequest();
      request.setDestination(ToKj(where));
      return request.send().then([&](auto&& response) {
        number = response.getNumber();
        return ReadError(response.getError());
      });
    }));
    return number;
  }
  absl::Status TakeBack(bool force) override {
    return Wait(asked_.timeout, [&] {
      auto request = control_.takeBackRequest();
      request.setForce(force);
      return ErrorOf(request.send());
    });
  }

  // By a connection of its own: no other takes a descriptor, whose mere closing may hang.
  absl::StatusOr<Fd> AttachConsole() override {
    FERRITE_ASSIGN_OR_RETURN(MachineConnection connection, ConnectTo(asked_));
    RpcControlClient other(asked_, std::move(connection), /*take_descriptors=*/true);
    Fd result;
    FERRITE_RETURN_IF_ERROR(other.Wait(asked_.timeout, [&] {
      return other.control_.attachConsoleRequest().send().then([&](auto&& response) -> kj::Promise<absl::Status> {
        if (const absl::Status error = ReadError(response.getError()); !error.ok()) {
          return absl::Status(error);
        }
        auto console = response.getConsole();
        return console.getFd()
            .then([&](kj::Maybe<int> fd) {
              KJ_IF_MAYBE (number, fd) {
                if (IsStreamSocket(*number)) {
                  // The capability's own descriptor goes with it.
                  result = Fd(fcntl(*number, F_DUPFD_CLOEXEC, 0));
                }
              }
              return result.valid() ? absl::Status() : absl::InternalError("the machine sent no console");
            })
            .attach(kj::mv(console));
      });
    }));
    return result;
  }

  absl::Status StartWatching() override {
    return Wait(asked_.timeout, [&] {
      auto request = control_.watchRequest();
      request.setSink(kj::heap<Sink>(events_));
      return request.send().then([&](auto&& response) {
        subscription_ = response.getSubscription();
        return ReadError(response.getError());
      });
    });
  }

  absl::StatusOr<WatchedEvent> NextEvent() override {
    if (events_->empty()) {
      FERRITE_RETURN_IF_ERROR(Wait(absl::InfiniteDuration(), [&] {
        auto lost = network_.onDisconnect().then([this] {
          // The connection may have brought the last event with its end.
          return events_->empty() ? Lost() : absl::OkStatus();
        });
        return events_->Pushed().then([] { return absl::OkStatus(); }).exclusiveJoin(kj::mv(lost));
      }));
    }
    return events_->Pop();
  }

 private:
  control::Control::Client Bootstrap() {
    capnp::MallocMessageBuilder message;
    auto server = message.initRoot<capnp::rpc::twoparty::VatId>();
    server.setSide(capnp::rpc::twoparty::Side::SERVER);
    return rpc_.bootstrap(server).castAs<control::Control>();
  }

  template <typename Call>
  static kj::Promise<absl::Status> ErrorOf(Call&& call) {
    return call.then([](auto&& response) { return ReadError(response.getError()); });
  }

  void Refuse(const kj::Exception& exception) {
    if (exception.getType() != kj::Exception::Type::DISCONNECTED) {
      refused_ = Summary(exception);
    }
  }

  // Why the connection ended.
  absl::Status Lost() const {
    if (!refused_.empty()) {
      return absl::InternalError(absl::StrCat("what answers for machine ", asked_.name,
                                              " is no monitor, or one of another version: ", refused_));
    }
    return LostMachine(asked_);
  }

  // Runs `start`, waits for the Status that it promises, and turns kj's exceptions into one.
  template <typename Start>
  absl::Status Wait(absl::Duration timeout, Start start) {
    KjLogRedirect log;
    absl::Status status;
    const kj::Maybe<kj::Exception> failure = kj::runCatchingExceptions([&] {
      kj::Promise<absl::Status> promise = start();
      if (timeout != absl::InfiniteDuration()) {
        auto late = context_->provider->getTimer()
                        .afterDelay(absl::ToInt64Milliseconds(timeout) * kj::MILLISECONDS)
                        .then([timeout] {
                          return absl::Status(absl::DeadlineExceededError(
                              absl::StrCat("the machine did not answer within ", absl::FormatDuration(timeout))));
                        });
        promise = promise.exclusiveJoin(kj::mv(late));
      }
      status = promise.wait(context_->waitScope);
    });
    KJ_IF_MAYBE (exception, failure) {
      switch (exception->getType()) {
        case kj::Exception::Type::DISCONNECTED:
          return Lost();
        case kj::Exception::Type::UNIMPLEMENTED:
          return absl::UnimplementedError("this machine's monitor is of an older version and cannot do that");
        default:
          return absl::InternalError(absl::StrCat("control connection: ", Summary(*exception)));
      }
    }
    return status;
  }

  const std::shared_ptr<kj::AsyncIoContext> context_;
  const AskedMachine asked_;
  const Fd directory_;
  const pid_t pid_;
  std::string refused_;  // what it sent that no monitor sends
  BoundedStream stream_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;
  control::Control::Client control_;
  std::shared_ptr<EventQueue> events_ = std::make_shared<EventQueue>();
  control::Subscription::Client subscription_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlClient>> ControlClient::ConnectToMachine(const std::string& base,
                                                                               absl::string_view name,
                                                                               absl::Duration timeout) {
  AskedMachine asked = {base, std::string(name), timeout};
  FERRITE_ASSIGN_OR_RETURN(MachineConnection connection, ConnectTo(asked));
  return std::make_unique<RpcControlClient>(std::move(asked), std::move(connection), /*take_descriptors=*/false);
}

}  // namespace ferrite
