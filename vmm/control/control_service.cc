#include "vmm/control/control_service.h"

#include <kj/vector.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/version.h"
#include "vmm/control/awaited_result.h"
#include "vmm/control/device_rpc.h"
#include "vmm/control/mirror_rpc.h"
#include "vmm/control/move_rpc.h"
#include "vmm/control/rpc_util.h"
#include "vmm/control/watcher.h"

namespace ferrite {
namespace {

constexpr absl::Duration kStatisticsPatience = absl::Milliseconds(300);
// The part of the thread's time that may go into the question how much memory is in use on the host.
constexpr int kHostMemoryPart = 10;

// The disk that a call about a mirror names.
template <typename Context>
std::string DiskOf(Context& context) {
  return std::string(FromKj(context.getParams().getDisk()));
}

// Whoever calls for TLS gets nothing else.
absl::Status NoTlsSaid() { return absl::InvalidArgumentError("TLS with neither certificates nor a key"); }

control::State ToRpc(MachineState state) {
  switch (state) {
    case MachineState::kCreated:
      return control::State::CREATED;
    case MachineState::kPaused:
      return control::State::PAUSED;
    case MachineState::kRunning:
      return control::State::RUNNING;
    case MachineState::kStopped:
      break;
  }
  return control::State::STOPPED;
}

void FillLostPages(const std::vector<GuestAddress>& lost, control::Description::Builder out) {
  constexpr size_t kMost = 1024;
  out.setLostPageCount(lost.size());
  auto pages = out.initLostPages(static_cast<uint32_t>(std::min(lost.size(), kMost)));
  for (uint32_t i = 0; i < pages.size(); ++i) {
    pages.set(i, lost[i].value());
  }
}

void FillBalloon(const BalloonFigures& figures, control::Balloon::Builder out) {
  out.setTargetBytes(figures.target_bytes);
  out.setActualBytes(figures.actual_bytes);
  auto statistics = out.initStatistics(static_cast<unsigned>(figures.statistics.size()));
  for (unsigned i = 0; i < statistics.size(); ++i) {
    statistics[i].setName(ToKj(figures.statistics[i].first));
    statistics[i].setValue(figures.statistics[i].second);
  }
}

absl::Status NotHereYet() {
  return absl::FailedPreconditionError(
      "no machine has arrived here yet; this monitor still waits for one to move here");
}

absl::Status NoBalloon() {
  return absl::FailedPreconditionError("this machine has no balloon; start it with --balloon 0 to give it one");
}

class ConsoleCapability final : public control::Console::Server {
 public:
  explicit ConsoleCapability(Fd fd) : fd_(std::move(fd)) {}
  kj::Maybe<int> getFd() override { return fd_.get(); }

 private:
  Fd fd_;
};

}  // namespace

void ControlShared::Deliver(const TimedEvent& event) {
  for (Watcher* watcher : watchers) {
    watcher->Push(event);
  }
}

void ControlShared::AddMissed(uint64_t count) {
  for (Watcher* watcher : watchers) {
    watcher->AddMissed(count);
  }
}

kj::Promise<void> ControlShared::AllTaken() {
  kj::Vector<kj::Promise<void>> each;
  for (Watcher* watcher : watchers) {
    // A watcher that goes away breaks its promise.
    each.add(watcher->AllTaken().catch_([](kj::Exception&&) {}));
  }
  return kj::joinPromises(each.releaseAsArray());
}

ControlShared::HostMemory ControlShared::MeasureMemory() {
  const MonotonicTime start = MonotonicTime::Now();
  if (start < host_memory_until) {
    return host_memory;
  }
  host_memory = {};
  for (const auto& region : target.machine->memory().regions()) {
    host_memory.resident_bytes += region->ResidentBytes().value_or(0);
  }
  host_memory.huge_bytes = target.machine->memory().HugeBytes();
  const MonotonicTime end = MonotonicTime::Now();
  host_memory_until = end + kHostMemoryPart * (end - start);
  return host_memory;
}

ControlService::ControlService(ControlShared& shared, std::shared_ptr<ClientActivity> activity)
    : shared_(shared), target_(shared.target), timer_(shared.timer), activity_(std::move(activity)) {}

ControlService::~ControlService() noexcept(false) = default;

capnp::Capability::Server::DispatchCallResult ControlService::dispatchCall(
    uint64_t interface_id, uint16_t method_id, capnp::CallContext<capnp::AnyPointer, capnp::AnyPointer> context) {
  auto busy = kj::heap<Busy>(activity_, timer_);
  DispatchCallResult result = control::Control::Server::dispatchCall(interface_id, method_id, context);
  result.promise = result.promise.attach(kj::mv(busy));
  return result;
}

kj::Promise<void> ControlService::describe(DescribeContext context) {
  auto out = context.getResults().initMachine();
  out.setName(ToKj(target_.name));
  out.setPid(static_cast<uint32_t>(getpid()));
  out.setVersion(kVersion);
  out.setUptimeMs(static_cast<uint64_t>(absl::ToInt64Milliseconds(MonotonicTime::Now() - shared_.started)));
  if (target_.machine == nullptr) {
    out.setState(control::State::CREATED);
    return kj::READY_NOW;
  }
  Machine& machine = *target_.machine;
  const MachineConfig config = machine.config();
  out.setState(ToRpc(machine.state()));
  out.setCpus(config.cpus);
  out.setMemoryBytes(config.memory_bytes);
  out.setMemoryBacking(ToKj(std::string(MemoryBackingName(config.memory_backing))));
  const ControlShared::HostMemory host_memory = shared_.MeasureMemory();
  out.setMemoryResidentBytes(host_memory.resident_bytes);
  out.setMemoryHugeBytes(host_memory.huge_bytes);
  FillLostPages(machine.memory().LostPages(), out);
  out.setStartedNs(machine.started_ns());
  out.setFirstEntryNs(machine.first_entry_ns());
  out.setKernel(ToKj(config.kernel_path));
  out.setInitrd(ToKj(config.initrd_path));
  out.setCommandLine(ToKj(config.command_line));
  FillDevices(config, out);
  out.setHasBalloon(target_.balloon != nullptr);
  if (target_.balloon != nullptr) {
    FillBalloon(target_.balloon->Figures(), out.initBalloon());
  }
  if (target_.console != nullptr) {
    out.setConsoleDroppedBytes(target_.console->dropped_bytes());
  }
  if (target_.mirrors != nullptr) {
    const std::vector<MirrorStatus> mirrors = target_.mirrors->List();
    auto list = out.initMirrors(static_cast<uint32_t>(mirrors.size()));
    for (uint32_t i = 0; i < list.size(); ++i) {
      FillMirror(mirrors[i], list[i]);
    }
  }
  if (target_.mover != nullptr) {
    FillMove(target_.mover->status(), out.initMove());
    FillMove(target_.mover->arrival(), out.initArrival());
  } else if (target_.arrival) {
    FillMove(target_.arrival(), out.initArrival());
  }
  return kj::READY_NOW;
}

template <typename Context>
kj::Promise<void> ControlService::RunInTurn(Context context, WorkQueue::Turn turn, kj::Function<absl::Status()> work) {
  if (activity_->operations >= ControlServer::kMaxOperations) {
    FillError(absl::ResourceExhaustedError(
                  absl::StrCat(ControlServer::kMaxOperations, " operations of this client wait already")),
              context.getResults().initError());
    return kj::READY_NOW;
  }
  context.allowCancellation();
  ++activity_->operations;
  return shared_.work.Run(turn, kj::mv(work))
      .attach(kj::defer([activity = activity_] { --activity->operations; }))
      .then([context](absl::Status&& status) mutable { FillError(status, context.getResults().initError()); });
}

absl::Status ControlService::Allows(Operation operation) const {
  if (target_.mover != nullptr) {
    return target_.mover->Allows(operation, /*force=*/false);
  }
  return target_.arrival_allows ? target_.arrival_allows(operation) : absl::OkStatus();
}

template <typename Context>
kj::Promise<void> ControlService::RunOnMachine(Context context, WorkQueue::Turn turn, Operation operation,
                                               absl::Status (*work)(Machine&), bool force) {
  if (target_.machine == nullptr) {
    FillError(NotHereYet(), context.getResults().initError());
    return kj::READY_NOW;
  }
  return RunInTurn(context, turn,
                   [operation, work, force, machine = target_.machine, mover = target_.mover,
                    arrival_allows = target_.arrival_allows] {
                     // When its turn comes: it may have waited for a while.
                     absl::Status allowed;
                     if (mover != nullptr) {
                       allowed = mover->Allows(operation, force);
                     } else if (arrival_allows) {
                       allowed = arrival_allows(operation);
                     }
                     if (allowed.ok() && force && mover != nullptr) {
                       mover->GiveUp();
                     }
                     return allowed.ok() ? work(*machine) : allowed;
                   });
}

kj::Promise<void> ControlService::pause(PauseContext context) {
  return RunOnMachine(context, WorkQueue::Turn::kLast, Operation::kPause,
                      [](Machine& machine) { return machine.Pause(); });
}

kj::Promise<void> ControlService::resume(ResumeContext context) {
  return RunOnMachine(context, WorkQueue::Turn::kLast, Operation::kResume,
                      [](Machine& machine) { return machine.Resume(); });
}

kj::Promise<void> ControlService::reset(ResetContext context) {
  return RunOnMachine(context, WorkQueue::Turn::kLast, Operation::kReset,
                      [](Machine& machine) { return machine.Reset(); });
}

kj::Promise<void> ControlService::stop(StopContext context) {
  if (target_.mover == nullptr && target_.give_up) {
    target_.give_up();
    if (target_.machine == nullptr) {
      return kj::READY_NOW;
    }
  }
  return RunOnMachine(
      context, WorkQueue::Turn::kNext, Operation::kStop,
      [](Machine& machine) {
        machine.Stop();
        return absl::OkStatus();
      },
      context.getParams().getForce());
}

kj::Promise<void> ControlService::balloon(BalloonContext context) {
  if (target_.balloon == nullptr) {
    FillError(NoBalloon(), context.getResults().initError());
    return kj::READY_NOW;
  }
  context.allowCancellation();
  kj::Promise<absl::Status> fresh = absl::Status();
  const MonotonicTime asked = MonotonicTime::Now();
  if (target_.machine->state() == MachineState::kRunning && target_.balloon->RequestStatistics().ok()) {
    fresh = WaitForBalloon([asked](const BalloonFigures& figures) -> kj::Maybe<absl::Status> {
      if (figures.statistics_time >= asked || MonotonicTime::Now() >= asked + kStatisticsPatience) {
        return absl::Status();
      }
      return nullptr;
    });
  }
  // Also when none came, or too many wait: older statistics are better than none.
  return fresh.then([this, context](absl::Status&&) mutable {
    FillBalloon(target_.balloon->Figures(), context.getResults().initBalloon());
  });
}

absl::Status ControlService::MayWaitForBalloon() const {
  if (activity_->balloon_waits >= ControlServer::kMaxBalloonWaits) {
    return absl::ResourceExhaustedError(absl::StrCat(
        ControlServer::kMaxBalloonWaits, " calls of this client wait for the balloon already; let one end first"));
  }
  return shared_.balloon_waits.MayWait();
}

kj::Promise<absl::Status> ControlService::WaitForBalloon(BalloonWaits::Look look) {
  FERRITE_RETURN_IF_ERROR(MayWaitForBalloon());
  ++activity_->balloon_waits;
  return shared_.balloon_waits.Until(kj::mv(look)).attach(kj::defer([activity = activity_] {
    --activity->balloon_waits;
  }));
}

absl::Status ControlService::StartBalloon(uint64_t target_bytes) {
  if (target_.balloon == nullptr) {
    return NoBalloon();
  }
  if (target_bytes % kPageBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("balloon target of ", target_bytes, " bytes: it must be a multiple of ", kPageBytes));
  }
  if (const uint64_t memory_bytes = target_.machine->config().memory_bytes; target_bytes > memory_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("balloon target of ", FormatByteSize(target_bytes),
                                                   " is more than the machine's ", FormatByteSize(memory_bytes)));
  }
  if (target_.machine->state() == MachineState::kStopped) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot ", OperationName(Operation::kSetBalloon), ": the machine is stopped"));
  }
  return target_.balloon->SetTarget(target_bytes);
}

kj::Promise<void> ControlService::setBalloon(SetBalloonContext context) {
  const uint64_t target_bytes = context.getParams().getTargetBytes();
  const uint32_t wait_ms = context.getParams().getWaitMs();
  const absl::Duration wait = absl::Milliseconds(wait_ms);
  absl::Status started;
  if (wait > ControlServer::kMaxBalloonWait) {
    started = absl::InvalidArgumentError(
        absl::StrCat("a wait of ", absl::FormatDuration(wait),
                     " for the balloon: ", absl::FormatDuration(ControlServer::kMaxBalloonWait), " is the most"));
  } else if (wait_ms > 0) {
    started = MayWaitForBalloon();
  }
  if (started.ok()) {
    started = Allows(Operation::kSetBalloon);
  }
  if (started.ok()) {
    started = StartBalloon(target_bytes);
  }
  if (started.ok()) {
    // Or the machine's state was saved without it just now.
    started = Allows(Operation::kSetBalloon);
  }
  if (!started.ok()) {
    FillError(started, context.getResults().initError());
    return kj::READY_NOW;
  }
  context.allowCancellation();
  kj::Promise<absl::Status> reached = absl::Status();
  if (wait_ms > 0) {
    reached = BalloonReaches(target_bytes, wait);
  }
  return reached.then([this, context](absl::Status&& status) mutable {
    FillError(status, context.getResults().initError());
    FillBalloon(target_.balloon->Figures(), context.getResults().initBalloon());
  });
}

kj::Promise<absl::Status> ControlService::BalloonReaches(uint64_t target_bytes, absl::Duration limit) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  return WaitForBalloon([target_bytes, deadline](const BalloonFigures& figures) -> kj::Maybe<absl::Status> {
    if (figures.target_bytes != target_bytes) {
      return absl::Status(absl::AbortedError("the balloon's target was changed meanwhile"));
    }
    if (figures.actual_bytes == target_bytes) {
      return absl::Status();
    }
    if (MonotonicTime::Now() >= deadline) {
      return absl::Status(absl::DeadlineExceededError(
          absl::StrCat("the balloon holds ", FormatByteSize(figures.actual_bytes), " of ", FormatByteSize(target_bytes),
                       " at the deadline; the guest may be busy, paused, or have no balloon driver loaded")));
    }
    return nullptr;
  });
}

kj::Promise<void> ControlService::attachConsole(AttachConsoleContext context) {
  absl::StatusOr<Fd> fd = absl::FailedPreconditionError("this machine has no console to attach to");
  if (target_.console != nullptr) {
    fd = target_.console->Attach();
  }
  FillError(fd.status(), context.getResults().initError());
  if (fd.ok()) {
    context.getResults().setConsole(kj::heap<ConsoleCapability>(*std::move(fd)));
  }
  return kj::READY_NOW;
}

kj::Promise<void> ControlService::watch(WatchContext context) {
  if (activity_->subscriptions >= ControlServer::kMaxSubscriptions ||
      shared_.watchers.size() >= ControlServer::kMaxWatchers) {
    FillError(absl::ResourceExhaustedError(
                  activity_->subscriptions >= ControlServer::kMaxSubscriptions
                      ? absl::StrCat("this client watches ", ControlServer::kMaxSubscriptions, " times already")
                      : absl::StrCat(ControlServer::kMaxWatchers, " clients watch this machine")),
              context.getResults().initError());
    return kj::READY_NOW;
  }
  context.getResults().setSubscription(
      kj::heap<Watcher>(shared_.watchers, context.getParams().getSink(), activity_, timer_));
  return kj::READY_NOW;
}

template <typename Port>
Port* ControlService::PortOr(Port* port, control::Error::Builder error) const {
  if (port == nullptr) {
    FillError(target_.machine == nullptr ? NotHereYet()
                                         : absl::FailedPreconditionError("this machine is still arriving here"),
              error);
  }
  return port;
}

template <typename Context>
kj::Promise<void> ControlService::StartMove(Context context, migration::TlsOptions tls) {
  MovePort* const mover = PortOr(target_.mover, context.getResults().initError());
  if (mover == nullptr) {
    return kj::READY_NOW;
  }
  // A move takes the machine's turn, and opens its disks.
  return RunInTurn(
             context, WorkQueue::Turn::kLast,
             [mover, mirrors = target_.mirrors, where = std::string(FromKj(context.getParams().getDestination())),
              options = ReadMoveOptions(context.getParams().getOptions()), tls = std::move(tls)]() -> absl::Status {
               // Mirrors begin in a turn, too: neither begins while the other is on.
               if (mirrors != nullptr) {
                 FERRITE_RETURN_IF_ERROR(mirrors->AllowsMove());
               }
               return mover->Start(where, options, tls);
             })
      .then([mover, context]() mutable { context.getResults().setNumber(mover->status().number); });
}

kj::Promise<void> ControlService::startMove(StartMoveContext context) { return StartMove(context, {}); }

kj::Promise<void> ControlService::startMoveOverTls(StartMoveOverTlsContext context) {
  migration::TlsOptions tls = ReadTlsOptions(context.getParams().getTls());
  if (!tls.on()) {
    FillError(NoTlsSaid(), context.getResults().initError());
    return kj::READY_NOW;
  }
  return StartMove(context, std::move(tls));
}

kj::Promise<void> ControlService::moveStatus(MoveStatusContext context) {
  if (MovePort* const mover = PortOr(target_.mover, context.getResults().initError()); mover != nullptr) {
    FillMove(mover->status(), context.getResults().initMove());
  }
  return kj::READY_NOW;
}

kj::Promise<void> ControlService::cancelMove(CancelMoveContext context) {
  if (MovePort* const mover = PortOr(target_.mover, context.getResults().initError()); mover != nullptr) {
    FillError(mover->Cancel(), context.getResults().initError());
  }
  return kj::READY_NOW;
}

kj::Promise<void> ControlService::startPostcopy(StartPostcopyContext context) {
  if (MovePort* const mover = PortOr(target_.mover, context.getResults().initError()); mover != nullptr) {
    FillError(mover->StartPostcopy(), context.getResults().initError());
  }
  return kj::READY_NOW;
}

template <typename Context>
kj::Promise<void> ControlService::RecoverMove(Context context, migration::TlsOptions tls) {
  MovePort* const mover = PortOr(target_.mover, context.getResults().initError());
  if (mover == nullptr) {
    return kj::READY_NOW;
  }
  return RunInTurn(context, WorkQueue::Turn::kLast,
                   [mover, where = std::string(FromKj(context.getParams().getDestination())), tls = std::move(tls)] {
                     return mover->Recover(where, tls);
                   })
      .then([mover, context]() mutable { context.getResults().setNumber(mover->status().number); });
}

kj::Promise<void> ControlService::recoverMove(RecoverMoveContext context) { return RecoverMove(context, {}); }

kj::Promise<void> ControlService::recoverMoveOverTls(RecoverMoveOverTlsContext context) {
  migration::TlsOptions tls = ReadTlsOptions(context.getParams().getTls());
  if (!tls.on()) {
    FillError(NoTlsSaid(), context.getResults().initError());
    return kj::READY_NOW;
  }
  return RecoverMove(context, std::move(tls));
}

kj::Promise<void> ControlService::takeBack(TakeBackContext context) {
  MovePort* const mover = PortOr(target_.mover, context.getResults().initError());
  if (mover == nullptr) {
    return kj::READY_NOW;
  }
  const bool force = context.getParams().getForce();
  return RunInTurn(context, WorkQueue::Turn::kLast, [mover, force] { return mover->TakeBack(force); });
}

bool ControlService::MayAskMirror(MirrorWait wait, control::Error::Builder error) const {
  if (activity_->operations < ControlServer::kMaxOperations &&
      shared_.mirror_waits < ControlServer::kMaxAllMirrorWaits &&
      (wait == MirrorWait::kSoon || shared_.mirror_ends < ControlServer::kMaxMirrorEnds)) {
    return true;
  }
  FillError(absl::ResourceExhaustedError("too many operations wait for this machine's mirrors; try again later"),
            error);
  return false;
}

kj::Own<void> ControlService::CountMirrorWait(MirrorWait wait) {
  const size_t ends = wait == MirrorWait::kEnd ? 1 : 0;
  ++activity_->operations;
  ++shared_.mirror_waits;
  shared_.mirror_ends += ends;
  return kj::attachVal(kj::defer([&shared = shared_, activity = activity_, ends] {
    --activity->operations;
    --shared.mirror_waits;
    shared.mirror_ends -= ends;
  }));
}

template <typename Context>
kj::Promise<void> ControlService::AskMirror(Context context, MirrorWait wait,
                                            kj::Function<void(MirrorPort&, MirrorPort::Done)> ask) {
  MirrorPort* const mirrors = PortOr(target_.mirrors, context.getResults().initError());
  if (mirrors == nullptr) {
    return kj::READY_NOW;
  }
  if (!MayAskMirror(wait, context.getResults().initError())) {
    return kj::READY_NOW;
  }
  context.allowCancellation();
  AwaitedResult result = MakeAwaitedResult();
  auto counted = CountMirrorWait(wait);
  ask(*mirrors, std::move(result.done));
  if (wait == MirrorWait::kSoon) {
    const auto patience = absl::ToInt64Milliseconds(target_.mirror_patience) * kj::MILLISECONDS;
    result.promise = result.promise.exclusiveJoin(timer_.afterDelay(patience).then([] {
      return absl::Status(absl::DeadlineExceededError("that is not done yet; it goes on, and `--status` tells how"));
    }));
  }
  return result.promise.attach(kj::mv(counted)).then([context](absl::Status&& status) mutable {
    FillError(status, context.getResults().initError());
  });
}

kj::Promise<void> ControlService::startMirror(StartMirrorContext context) {
  MirrorPort* const mirrors = PortOr(target_.mirrors, context.getResults().initError());
  if (mirrors == nullptr) {
    return kj::READY_NOW;
  }
  const auto params = context.getParams();
  MirrorRequest request = {.disk = std::string(FromKj(params.getDisk())),
                           .target = std::string(FromKj(params.getTarget())),
                           .existing = params.getExisting(),
                           .auto_complete = params.getAutoComplete(),
                           .options = ReadMirrorOptions(params.getOptions())};
  if (!MayAskMirror(MirrorWait::kSoon, context.getResults().initError())) {
    return kj::READY_NOW;
  }
  context.allowCancellation();
  AwaitedResult result = MakeAwaitedResult();
  auto counted = CountMirrorWait(MirrorWait::kSoon);
  const auto number = std::make_shared<uint64_t>(0);
  // In its turn, so that neither it nor a move begins while the other is on; what takes long is not in that turn.
  auto turn = shared_.work.Run(WorkQueue::Turn::kLast,
                               [mirrors, number, machine = target_.machine, mover = target_.mover,
                                request = std::move(request), done = std::move(result.done)]() -> absl::Status {
                                 if (machine->state() == MachineState::kStopped) {
                                   return absl::FailedPreconditionError(absl::StrCat(
                                       "cannot ", OperationName(Operation::kMirror), ": the machine is stopped"));
                                 }
                                 if (mover != nullptr) {
                                   FERRITE_RETURN_IF_ERROR(mover->Allows(Operation::kMirror, /*force=*/false));
                                 }
                                 mirrors->Start(request, [number, done](const absl::StatusOr<uint64_t>& started) {
                                   *number = started.value_or(0);
                                   done(started.status());
                                 });
                                 return absl::OkStatus();
                               });
  return turn
      .then([promise = kj::mv(result.promise)](absl::Status&& status) mutable -> kj::Promise<absl::Status> {
        return status.ok() ? kj::mv(promise) : kj::Promise<absl::Status>(kj::mv(status));
      })
      .attach(kj::mv(counted))
      .then([number, context](absl::Status&& status) mutable {
        FillError(status, context.getResults().initError());
        context.getResults().setNumber(*number);
      });
}

kj::Promise<void> ControlService::mirrorStatus(MirrorStatusContext context) {
  if (MirrorPort* const mirrors = PortOr(target_.mirrors, context.getResults().initError()); mirrors != nullptr) {
    const auto mirror = mirrors->Status(FromKj(context.getParams().getDisk()));
    FillError(mirror.status(), context.getResults().initError());
    if (mirror.ok()) {
      FillMirror(*mirror, context.getResults().initMirror());
    }
  }
  return kj::READY_NOW;
}

kj::Promise<void> ControlService::completeMirror(CompleteMirrorContext context) {
  return AskMirror(context, MirrorWait::kEnd, [disk = DiskOf(context)](MirrorPort& mirrors, MirrorPort::Done done) {
    mirrors.Complete(disk, std::move(done));
  });
}

kj::Promise<void> ControlService::cancelMirror(CancelMirrorContext context) {
  const bool keep_copy = context.getParams().getKeepCopy();
  return AskMirror(context, keep_copy ? MirrorWait::kEnd : MirrorWait::kSoon,
                   [disk = DiskOf(context), keep_copy](MirrorPort& mirrors, MirrorPort::Done done) {
                     mirrors.Cancel(disk, keep_copy, std::move(done));
                   });
}

kj::Promise<void> ControlService::pauseMirror(PauseMirrorContext context) {
  return AskMirror(context, MirrorWait::kSoon, [disk = DiskOf(context)](MirrorPort& mirrors, MirrorPort::Done done) {
    mirrors.Pause(disk, std::move(done));
  });
}

kj::Promise<void> ControlService::resumeMirror(ResumeMirrorContext context) {
  return AskMirror(context, MirrorWait::kSoon, [disk = DiskOf(context)](MirrorPort& mirrors, MirrorPort::Done done) {
    mirrors.Resume(disk, std::move(done));
  });
}

kj::Promise<void> ControlService::setMirror(SetMirrorContext context) {
  return AskMirror(
      context, MirrorWait::kSoon,
      [disk = DiskOf(context), bandwidth = context.getParams().getMaxBandwidth()](
          MirrorPort& mirrors, MirrorPort::Done done) { mirrors.SetMaxBandwidth(disk, bandwidth, std::move(done)); });
}

}  // namespace ferrite
