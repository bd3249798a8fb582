#include "vmm/control/client.h"

#include <capnp/rpc-twoparty.h>
#include <fcntl.h>
#include <kj/async-io.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/control/bounded_stream.h"
#include "vmm/control/client_loop.h"
#include "vmm/control/description_rpc.h"
#include "vmm/control/event_queue.h"
#include "vmm/control/event_sink.h"
#include "vmm/control/from_monitor.h"
#include "vmm/control/machine_connection.h"
#include "vmm/control/mirror_rpc.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"

namespace ferrite {
namespace {

using kj::LowLevelAsyncIoProvider;

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
        network_(stream_, 1, capnp::rpc::twoparty::Side::CLIENT, LimitsOfMonitor()),
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

  absl::StatusOr<uint64_t> StartMove(const std::string& where, const migration::MoveOptions& options,
                                     const migration::TlsOptions& tls) override {
    if (tls == migration::TlsOptions()) {
      return BeginMove(control_.startMoveRequest(), where, options);
    }
    auto request = control_.startMoveOverTlsRequest();
    FillTlsOptions(tls, request.initTls());
    return OverTls(BeginMove(std::move(request), where, options));
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
  absl::StatusOr<uint64_t> RecoverMove(const std::string& where, const migration::TlsOptions& tls) override {
    if (tls == migration::TlsOptions()) {
      return BeginMove(control_.recoverMoveRequest(), where);
    }
    auto request = control_.recoverMoveOverTlsRequest();
    FillTlsOptions(tls, request.initTls());
    return OverTls(BeginMove(std::move(request), where));
  }
  absl::Status TakeBack(bool force) override {
    return Wait(asked_.timeout, [&] {
      auto request = control_.takeBackRequest();
      request.setForce(force);
      return ErrorOf(request.send());
    });
  }

  absl::StatusOr<uint64_t> StartMirror(const MirrorRequest& wanted) override {
    uint64_t number = 0;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      auto request = control_.startMirrorRequest();
      request.setDisk(ToKj(wanted.disk));
      request.setTarget(ToKj(wanted.target));
      request.setExisting(wanted.existing);
      request.setAutoComplete(wanted.auto_complete);
      FillMirrorOptions(wanted.options, request.initOptions());
      return request.send().then([&](auto&& response) {
        number = response.getNumber();
        return ReadError(response.getError());
      });
    }));
    return number;
  }
  absl::StatusOr<MirrorStatus> GetMirror(const std::string& disk) override {
    MirrorStatus mirror;
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      auto request = control_.mirrorStatusRequest();
      request.setDisk(ToKj(disk));
      return request.send().then([&](auto&& response) {
        mirror = ReadMirror(response.getMirror());
        return ReadError(response.getError());
      });
    }));
    return mirror;
  }
  absl::Status CompleteMirror(const std::string& disk, const MirrorTold& told) override {
    return EndOfDisk(disk, told, [this] { return control_.completeMirrorRequest(); });
  }
  absl::Status KeepMirrorCopy(const std::string& disk, const MirrorTold& told) override {
    return EndOfDisk(disk, told, [this] {
      auto request = control_.cancelMirrorRequest();
      request.setKeepCopy(true);
      return request;
    });
  }
  absl::Status CancelMirror(const std::string& disk) override {
    return OfDisk(disk, [this] { return control_.cancelMirrorRequest(); });
  }
  absl::Status PauseMirror(const std::string& disk) override {
    return OfDisk(disk, [this] { return control_.pauseMirrorRequest(); });
  }
  absl::Status ResumeMirror(const std::string& disk) override {
    return OfDisk(disk, [this] { return control_.resumeMirrorRequest(); });
  }
  absl::Status SetMirror(const std::string& disk, uint64_t max_bandwidth) override {
    return OfDisk(disk, [this, max_bandwidth] {
      auto request = control_.setMirrorRequest();
      request.setMaxBandwidth(max_bandwidth);
      return request;
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
      request.setSink(kj::heap<EventSink>(events_));
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

  // The call that `make` prepares, about `disk`.
  template <typename Make>
  absl::Status OfDisk(const std::string& disk, Make make) {
    return Wait(asked_.timeout, [&] {
      auto request = make();
      request.setDisk(ToKj(disk));
      return ErrorOf(request.send());
    });
  }

  // The same, of an end that takes as long as it takes.
  template <typename Make>
  absl::Status EndOfDisk(const std::string& disk, const MirrorTold& told, Make make) {
    FERRITE_RETURN_IF_ERROR(StartWatching());
    return Wait(absl::InfiniteDuration(), [&] {
      auto request = make();
      request.setDisk(ToKj(disk));
      return ErrorOf(request.send()).exclusiveJoin(AwaitSilence(disk, told));
    });
  }

  // DEADLINE_EXCEEDED when no event came for the timeout. Both outlive what is promised.
  kj::Promise<absl::Status> AwaitSilence(const std::string& disk, const MirrorTold& told) {
    while (!events_->empty()) {
      const WatchedEvent event = events_->Pop();
      if (told && event.event.kind == MachineEvent::Kind::kMirror && event.mirror.disk == disk) {
        told(event.mirror);
      }
    }
    return events_->Pushed()
        .then([] { return absl::OkStatus(); })
        .exclusiveJoin(Late(asked_.timeout))
        .then([this, &disk, &told](absl::Status&& status) -> kj::Promise<absl::Status> {
          return status.ok() ? AwaitSilence(disk, told) : kj::Promise<absl::Status>(kj::mv(status));
        });
  }

  kj::Promise<absl::Status> Late(absl::Duration timeout) {
    return context_->provider->getTimer()
        .afterDelay(absl::ToInt64Milliseconds(timeout) * kj::MILLISECONDS)
        .then([timeout] {
          return absl::Status(absl::DeadlineExceededError(
              absl::StrCat("the machine did not answer within ", absl::FormatDuration(timeout))));
        });
  }

  void Refuse(const kj::Exception& exception) {
    if (exception.getType() != kj::Exception::Type::DISCONNECTED) {
      refused_ = Summary(exception);
    }
  }

  template <typename Request>
  absl::StatusOr<uint64_t> BeginMove(Request request, const std::string& where, const migration::MoveOptions& options) {
    FillMoveOptions(options, request.initOptions());
    return BeginMove(std::move(request), where);
  }
  template <typename Request>
  absl::StatusOr<uint64_t> BeginMove(Request request, const std::string& where) {
    uint64_t number = 0;
    request.setDestination(ToKj(where));
    FERRITE_RETURN_IF_ERROR(Wait(asked_.timeout, [&] {
      return request.send().then([&](auto&& response) {
        number = response.getNumber();
        return ReadError(response.getError());
      });
    }));
    return number;
  }
  // A monitor that has no TLS has no such method: it has done nothing.
  absl::StatusOr<uint64_t> OverTls(absl::StatusOr<uint64_t> number) const {
    if (!absl::IsUnimplemented(number.status())) {
      return number;
    }
    return absl::UnimplementedError(absl::StrCat("the monitor of ", asked_.name,
                                                 " is of an older version and has no TLS: nothing was sent in plain"));
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
        promise = promise.exclusiveJoin(Late(timeout));
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
