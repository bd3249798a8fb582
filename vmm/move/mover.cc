#include "vmm/move/mover.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/lock_limit.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/channel/rdma/rdma_rendezvous.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/channel/tls/tls_security.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/engine_host.h"
#include "vmm/move/host_verbs.h"
#include "vmm/move/remedy_text.h"

namespace ferrite {
namespace {

// Whether `path` leads to `name` in `directory`, or from the process's own where that is AT_FDCWD.
bool IsFile(const std::string& path, int directory, const std::string& name) {
  struct stat first = {};
  struct stat second = {};
  return stat(path.c_str(), &first) == 0 && fstatat(directory, name.c_str(), &second, 0) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// Who opens the channels of a move to `address`, over what is said.
absl::StatusOr<std::shared_ptr<migration::ChannelOpener>> OpenerTo(const migration::Address& address,
                                                                   const migration::TlsOptions& tls,
                                                                   const migration::RdmaOptions& rdma,
                                                                   Machine& machine) {
  if (address.kind == migration::Address::Kind::kRdma) {
    if (tls.on()) {
      return absl::InvalidArgumentError("what goes over RDMA is not encrypted; use tcp:HOST:PORT for TLS");
    }
    FERRITE_RETURN_IF_ERROR(CheckLockLimit(ReadLockLimit(), "a move over RDMA", machine.memory().total_bytes()));
    FERRITE_ASSIGN_OR_RETURN(migration::Verbs* const verbs, HostVerbs());
    return migration::OpenRdmaAt(address, *verbs, rdma, RealClock());
  }
  std::shared_ptr<migration::StreamSecurity> security;
  if (tls.on()) {
    FERRITE_ASSIGN_OR_RETURN(
        security, migration::TlsSecurity::Create(tls, migration::TlsSide::kSource, address,
                                                 migration::OnEachNewTls(EngineHost(), [](const std::string& words) {
                                                   IfThereIsMemory([&] { Log().info("move: to {}", words); });
                                                 })));
  }
  return migration::OpenAt(address, RealClock(), std::move(security));
}

absl::Status Ending() { return absl::UnavailableError("this machine is ending"); }

}  // namespace

Mover::Mover(Machine& machine, Fd run_directory, std::string console_socket, Listener listener)
    : machine_(machine),
      run_directory_(std::move(run_directory)),
      console_socket_(std::move(console_socket)),
      listener_(std::move(listener)) {}

Mover::~Mover() {
  // Too late or nothing to cancel: then there is its end to wait for, or none.
  IfThereIsMemory([this] { (void)Cancel(); });
  Leave();
  const absl::MutexLock lock(&start_mutex_);
  thread_.Join();
}

absl::StatusOr<migration::Address> Mover::ReadAddress(const std::string& where) const {
  FERRITE_ASSIGN_OR_RETURN(migration::Address address, migration::ParseAddress(where));
  if (address.kind == migration::Address::Kind::kUnix) {
    const bool is_control = IsFile(address.path, run_directory_.get(), "control.sock");
    if (is_control || IsFile(address.path, AT_FDCWD, console_socket_)) {
      return absl::InvalidArgumentError(
          absl::StrCat("that is this machine's own ", is_control ? "control" : "console",
                       " socket; give the address of another monitor's `ferrite receive`"));
    }
  }
  return address;
}

absl::Status Mover::Start(const std::string& where, const migration::MoveOptions& options,
                          const migration::TlsOptions& tls) {
  FERRITE_ASSIGN_OR_RETURN(const migration::Address address, ReadAddress(where));
  FERRITE_ASSIGN_OR_RETURN(const auto opener, OpenerTo(address, tls, options.rdma, machine_));
  const absl::MutexLock start_lock(&start_mutex_);
  {
    const TimedMutexLock lock(&mutex_);
    if (on_ && !status_.over) {
      return absl::FailedPreconditionError(absl::StrCat("the machine is already moving, to ", status_.where));
    }
    if (status_.over && status_.guest == GuestPlace::kHandedOver) {
      return absl::FailedPreconditionError(
          absl::StrCat("the guest was handed over to ", status_.where, " and may run there; see `ferrite recover`"));
    }
  }
  if (machine_.state() != MachineState::kRunning && machine_.state() != MachineState::kPaused) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot move: the machine is ", MachineStateName(machine_.state())));
  }
  FERRITE_RETURN_IF_ERROR(Annotate(machine_.moving().AcquireDisks(), "cannot move"));
  thread_.Join();
  auto port = std::make_unique<MachineSource>(machine_, run_directory_);
  FERRITE_ASSIGN_OR_RETURN(auto source, migration::Source::Create(EngineHost(), *port, options,
                                                                  [this](const migration::MoveProgress&) { Note(); }));
  {
    const TimedMutexLock lock(&mutex_);
    if (ending_) {
      return Ending();
    }
    MoveStatus status;
    status.number = status_.number + 1;
    status.where = address.ToString();
    tls_ = tls;
    rdma_ = options.rdma;
    FERRITE_RETURN_IF_ERROR(
        Annotate(StartThread([opener](migration::Source& session) { return session.Run(opener); }), "cannot move"));
    // The move has begun: nothing takes memory from here on.
    // The session before the port that it uses.
    source_ = std::move(source);
    port_ = std::move(port);
    on_ = true;
    status_ = std::move(status);
  }
  IfThereIsMemory([&] { Log().info("move: to {}", address.ToString()); });
  return absl::OkStatus();
}

absl::Status Mover::CheckHandedOver() const {
  const TimedMutexLock lock(&mutex_);
  if (on_ && !status_.over) {
    return absl::FailedPreconditionError(absl::StrCat("the move to ", status_.where, " is still on"));
  }
  if (!status_.over || status_.guest != GuestPlace::kHandedOver) {
    return absl::FailedPreconditionError("there is nothing to recover: the guest was not handed over to anybody");
  }
  return absl::OkStatus();
}

absl::Status Mover::Recover(const std::string& where, const migration::TlsOptions& tls) {
  const absl::MutexLock start_lock(&start_mutex_);
  FERRITE_RETURN_IF_ERROR(CheckHandedOver());
  std::string to = where;
  {
    const TimedMutexLock lock(&mutex_);
    if (to.empty()) {
      to = status_.where;
    }
  }
  FERRITE_ASSIGN_OR_RETURN(const migration::Address address, ReadAddress(to));
  // The files are read again: a certificate may have been renewed.
  const migration::TlsOptions& over = tls.on() ? tls : tls_;
  FERRITE_ASSIGN_OR_RETURN(const auto opener, OpenerTo(address, over, rdma_, machine_));
  thread_.Join();
  {
    const TimedMutexLock lock(&mutex_);
    if (ending_) {
      return Ending();
    }
    FERRITE_RETURN_IF_ERROR(
        Annotate(StartThread([opener](migration::Source& source) { return source.Recover(opener); }),
                 "cannot look for the destination"));
    on_ = true;
    status_.over = false;
    status_.result = absl::OkStatus();
  }
  IfThereIsMemory([&] { Log().info("move: looking for the destination at {}", to); });
  return absl::OkStatus();
}

absl::Status Mover::TakeBack(bool force) {
  absl::Status status;
  {
    const absl::MutexLock start_lock(&start_mutex_);
    FERRITE_RETURN_IF_ERROR(CheckHandedOver());
    thread_.Join();
    const TimedMutexLock lock(&mutex_);
    if (ending_) {
      return Ending();
    }
    if (source_->ran_there()) {
      const MachineConfig config = machine_.config();
      const std::vector<std::string> copied = port_->CopiedDisks();
      for (const DiskConfig* disk : config.all<DiskConfig>()) {
        // One that was copied is as the guest left it here.
        if (!disk->read_only && std::find(copied.begin(), copied.end(), disk->id) == copied.end()) {
          return absl::FailedPreconditionError(absl::StrCat(
              "the guest was taken over at ", status_.where, " and may have written to its disk ", disk->id,
              ": its memory here is older than that. Stop it here and boot it anew, or recover the move"));
        }
      }
    }
    FERRITE_RETURN_IF_ERROR(Annotate(StartThread([force, &status](migration::Source& source) {
                                       status = source.TakeBack(force);
                                       return status.ok() ? absl::AbortedError("the guest was taken back") : status;
                                     }),
                                     "cannot take the guest back"));
    on_ = true;
    status_.over = false;
  }
  Wait();
  status = WithRemedyText(status);
  const TimedMutexLock lock(&mutex_);
  if (!status.ok() && status_.guest == GuestPlace::kHerePaused) {
    return absl::Status(status.code(), absl::StrCat(status.message(),
                                                    "; the guest is taken back but stays paused here until `resume`"));
  }
  return status;
}

void Mover::Leave() {
  const TimedMutexLock lock(&mutex_);
  if (source_ != nullptr) {
    source_->Leave();
    port_->StopTrying();
  }
}

void Mover::BeginEnd() {
  const TimedMutexLock lock(&mutex_);
  ending_ = true;
}

absl::Status Mover::StartThread(std::function<absl::Status(migration::Source&)> phase) {
  FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start("move", [this, phase = std::move(phase)] { Run(phase); }));
  return absl::OkStatus();
}

void Mover::Run(const std::function<absl::Status(migration::Source&)>& phase) {
  migration::Source* source = nullptr;
  {
    const TimedMutexLock lock(&mutex_);
    source = source_.get();
  }
  Thread teller;
  const absl::Status told = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(teller, Thread::Start("move-tick", [this] { Tell(); }));
    return absl::OkStatus();
  });
  if (!told.ok()) {
    // The listener alone hears of it late.
    IfThereIsMemory([&] { Log().warn("move: it is told of at its end only: {}", std::string(told.message())); });
  }
  const absl::Status result = CatchOutOfMemory([&] { return WithRemedyText(phase(*source)); });
  const GuestPlace guest = PlaceAfter(result);
  IfThereIsMemory([&] {
    if (result.ok()) {
      Log().info("move: done, {}", DescribePlace(guest, "the guest", source->where()));
    } else if (guest == GuestPlace::kHandedOver) {
      // The session's own words tell of it.
      Log().warn("move: {}", std::string(result.message()));
    } else {
      Log().warn("move: {}; {}", std::string(result.message()), DescribePlace(guest, "the guest", source->where()));
    }
  });
  UntilThereIsMemory([&] {
    const TimedMutexLock lock(&mutex_);
    status_.progress = source->progress();
    status_.report = source->report();
    status_.result = result;
    status_.guest = guest;
    status_.where = source->where();
    status_.over = true;
  });
  if (teller.joinable()) {
    teller.Join();
  } else {
    Tell();
  }
  const TimedMutexLock lock(&mutex_);
  on_ = false;
}

GuestPlace Mover::PlaceAfter(const absl::Status& result) const {
  {
    const TimedMutexLock lock(&mutex_);
    if (result.ok() && source_->state() == migration::MoveState::kCompleted) {
      return port_->ran() ? GuestPlace::kThere : GuestPlace::kTherePaused;
    }
    if (source_->state() == migration::MoveState::kPostcopyPaused) {
      return GuestPlace::kHandedOver;
    }
  }
  switch (machine_.state()) {
    case MachineState::kRunning:
      return GuestPlace::kHereRunning;
    case MachineState::kStopped:
      return GuestPlace::kHereStopped;
    default:
      return GuestPlace::kHerePaused;
  }
}

void Mover::Note() {
  const TimedMutexLock lock(&mutex_);
  if (untold_.size() == kMaxUntold) {
    untold_.pop_front();
  }
  // Anew: a cancel may have changed what the move was about to say, and have been told.
  untold_.push_back(source_->progress());
}

void Mover::Tell() {
  const auto news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !untold_.empty() || status_.over; };
  bool last = false;
  while (!last) {
    IfThereIsMemory([&] {
      MoveStatus status;
      {
        const TimedMutexLock lock(&mutex_);
        mutex_.AwaitFor(absl::Condition(&news), kTick);
        last = untold_.empty() && status_.over;
        status = TakeNews();
      }
      if (listener_ != nullptr) {
        listener_(status);
      }
    });
  }
}

MoveStatus Mover::TakeNews() {
  if (untold_.empty()) {
    return StatusNow();
  }
  MoveStatus status{.number = status_.number, .progress = untold_.front()};
  untold_.pop_front();
  status.where = status_.where;
  return status;
}

MoveStatus Mover::StatusNow() const {
  MoveStatus status = status_;
  if (source_ != nullptr && (!status.over || status.guest == GuestPlace::kHandedOver)) {
    status.progress = source_->progress();
  }
  return status;
}

MoveStatus Mover::status() const {
  const TimedMutexLock lock(&mutex_);
  return StatusNow();
}

MoveStatus Mover::arrival() const {
  const TimedMutexLock lock(&mutex_);
  return arrival_;
}

void Mover::SetArrival(MoveStatus arrival) {
  const TimedMutexLock lock(&mutex_);
  arrival_ = std::move(arrival);
}

absl::Status Mover::Cancel() {
  const TimedMutexLock lock(&mutex_);
  if (!on_) {
    return absl::FailedPreconditionError("the machine is not moving");
  }
  absl::Status status = source_->Cancel();
  port_->EndDescription();
  if (!status.ok()) {
    port_->StopTrying();
  }
  return status;
}

absl::Status Mover::StartPostcopy() {
  const TimedMutexLock lock(&mutex_);
  if (!on_) {
    return absl::FailedPreconditionError("the machine is not moving");
  }
  return WithRemedyText(source_->StartPostcopy());
}

absl::Status Mover::Allows(Operation operation, bool force) const {
  const TimedMutexLock lock(&mutex_);
  const migration::MoveState state = source_ == nullptr ? migration::MoveState::kNone : source_->state();
  if (operation == Operation::kStop) {
    if (force) {
      return absl::OkStatus();
    }
    if (state == migration::MoveState::kPostcopyPaused || state == migration::MoveState::kPostcopyRecover ||
        (on_ && state == migration::MoveState::kPostcopyActive)) {
      return absl::FailedPreconditionError(
          absl::StrCat("cannot stop: the guest was handed over to ", status_.where,
                       " and may still need its memory from here; --force gives that up, and the guest with it"));
    }
    return absl::OkStatus();
  }
  if (operation == Operation::kSetBalloon && !Needed() && state != migration::MoveState::kDevice) {
    return absl::OkStatus();
  }
  if (Needed()) {
    return absl::FailedPreconditionError(absl::StrCat("cannot ", OperationName(operation),
                                                      ": the guest was handed over to ", status_.where,
                                                      "; `ferrite recover` says what can be done"));
  }
  if (on_) {
    return absl::FailedPreconditionError(absl::StrCat("cannot ", OperationName(operation),
                                                      ": the machine is moving to ", status_.where,
                                                      "; `ferrite move NAME --cancel` ends that"));
  }
  return absl::OkStatus();
}

void Mover::GiveUp() {
  const TimedMutexLock lock(&mutex_);
  given_up_ = true;
  if (on_) {
    source_->Abandon();
  }
}

bool Mover::Needed() const {
  if (source_ == nullptr || given_up_) {
    return false;
  }
  switch (source_->state()) {
    case migration::MoveState::kPostcopyActive:
    case migration::MoveState::kPostcopyPaused:
    case migration::MoveState::kPostcopyRecover:
      return true;
    default:
      return false;
  }
}

bool Mover::MustWait() const {
  const TimedMutexLock lock(&mutex_);
  return Needed();
}

void Mover::WaitUntilNotNeeded() {
  const TimedMutexLock lock(&mutex_);
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !on_ && !Needed(); };
  mutex_.Await(absl::Condition(&over));
}

void Mover::Wait() {
  const TimedMutexLock lock(&mutex_);
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !on_; };
  mutex_.Await(absl::Condition(&none));
}

}  // namespace ferrite
