#include "vmm/app/monitor.h"

#include <poll.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/lock_clock.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/poll.h"
#include "base/status.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/hiding.h"
#include "vmm/app/logging.h"
#include "vmm/app/text.h"
#include "vmm/app/unused_memory.h"
#include "vmm/console/raw_terminal.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

// The guest decides how often the balloon moves and how often it resets.
constexpr int kMaxLogged = 1000;
// Of the end, for what is in flight at a mirror's target; a server is cut off before.
constexpr absl::Duration kMirrorPatience = absl::Seconds(10);

}  // namespace

absl::StatusOr<std::unique_ptr<Monitor>> Monitor::Create(const std::string& name, const MonitorOptions& options) {
  if (!options.debuggable) {
    FERRITE_RETURN_IF_ERROR(HideProcess());
  }
  FERRITE_ASSIGN_OR_RETURN(const std::string base, RunBase(options.run_dir));
  FERRITE_ASSIGN_OR_RETURN(StopSignals signals, StopSignals::Create());
  FERRITE_ASSIGN_OR_RETURN(EventFd ended, EventFd::Create());
  std::unique_ptr<Monitor> monitor(new Monitor(std::move(signals), std::move(ended)));
  monitor->name_ = name;
  FERRITE_ASSIGN_OR_RETURN(monitor->lock_clock_, Thread::Start("lock-clock", WarmLockClock));
  if (options.console.kind == ConsoleSink::Kind::kUnix) {
    monitor->console_socket_ = options.console.path;
  }
  FERRITE_ASSIGN_OR_RETURN(monitor->kvm_, Kvm::Open());
  FERRITE_ASSIGN_OR_RETURN(monitor->run_dir_, RunDir::Create(base, name));
  FERRITE_RETURN_IF_ERROR(monitor->CheckNotEnding());
  if (options.log_path.empty()) {
    FERRITE_ASSIGN_OR_RETURN(Fd log, monitor->run_dir_->CreateLog());
    LogToFileToo(std::move(log), monitor->run_dir_->log_path());
  } else {
    FERRITE_RETURN_IF_ERROR(Annotate(LogToFileToo(options.log_path), "--log"));
  }
  FERRITE_ASSIGN_OR_RETURN(monitor->grant_directory_, monitor->run_dir_->directory().Duplicate());
  FERRITE_ASSIGN_OR_RETURN(monitor->loop_, EventLoop::Create("devices"));
  ConsoleHub::Options console_options;
  console_options.sink = options.console;
  console_options.leave = [monitor = monitor.get()] { monitor->ended_.Signal(); };
  auto console = ConsoleHub::Create(std::move(console_options));
  FERRITE_RETURN_IF_ERROR(Annotate(console.status(), "--console"));
  monitor->console_ = *std::move(console);
  return monitor;
}

Monitor::~Monitor() { Close(); }

std::function<void(const MachineEvent&)> Monitor::Listener() {
  return [this](const MachineEvent& event) { OnEvent(event); };
}

void Monitor::OnEvent(const MachineEvent& event) {
  absl::MutexLock lock(&mutex_);
  const bool last = event.kind == MachineEvent::Kind::kStopped;
  // Of a lost page the machine's own log has it.
  const bool logs = event.kind != MachineEvent::Kind::kBalloon && event.kind != MachineEvent::Kind::kLostPage;
  if (last || (logs && logged_ < kMaxLogged)) {
    ++logged_;
    IfThereIsMemory([&] {
      Log().info("machine {}{}{}", MachineEventKindName(event.kind), event.text.empty() ? "" : ": ", event.text);
    });
  }
  if (ControlServer* const server = published_to_; server != nullptr) {
    IfThereIsMemory([&] { server->Publish(event); });
  }
  // Whatever was missing for words.
  if (last) {
    ended_.Signal();
  }
}

ControlTarget Monitor::Target(Machine* machine) {
  return {.name = name_,
          .machine = machine,
          .console = console_.get(),
          .balloon = machine != nullptr ? machine->balloon() : nullptr,
          .mover = mover_.get(),
          .mirrors = mirrors_.get(),
          .give_up = [this] { ended_.Signal(); },
          .idle = ReleaseUnusedMemory};
}

absl::Status Monitor::Serve() {
  FERRITE_ASSIGN_OR_RETURN(Fd listener, run_dir_->ListenOnControlSocket());
  FERRITE_ASSIGN_OR_RETURN(server_, ControlServer::Create(std::move(listener), Target(machine_.get())));
  absl::MutexLock lock(&mutex_);
  published_to_ = server_.get();
  return absl::OkStatus();
}

void Monitor::ServeArriving(Machine& machine, std::function<MoveStatus()> arrival,
                            std::function<absl::Status(Operation operation)> allows) {
  ControlTarget target = Target(&machine);
  target.arrival = std::move(arrival);
  target.arrival_allows = std::move(allows);
  MakeMoverAndMirrors(machine);
  arrived_target_ = Target(&machine);
  server_->SetTarget(std::move(target));
}

void Monitor::MakeMoverAndMirrors(Machine& machine) {
  mover_ =
      std::make_unique<Mover>(machine, std::move(grant_directory_), console_socket_, [this](const MoveStatus& move) {
        absl::MutexLock lock(&mutex_);
        if (published_to_ != nullptr) {
          published_to_->Publish(move);
        }
      });
  mirrors_ = std::make_unique<Mirrors>(machine.disks(), [this](const MirrorStatus& mirror) {
    absl::MutexLock lock(&mutex_);
    if (published_to_ != nullptr) {
      published_to_->Publish(mirror);
    }
  });
}

void Monitor::SetMachine(std::unique_ptr<Machine> machine) {
  machine_ = std::move(machine);
  MakeMoverAndMirrors(*machine_);
}

void Monitor::SetArrival(MoveStatus arrival) { mover_->SetArrival(std::move(arrival)); }

void Monitor::SetArrivedMachine(std::unique_ptr<Machine> machine) noexcept {
  machine_ = std::move(machine);
  server_->SetTarget(std::move(arrived_target_));
}

absl::Status Monitor::CheckNotEnding() {
  pollfd polled = {signals_.fd(), POLLIN, 0};
  if (poll(&polled, 1, 0) != 1) {
    return absl::OkStatus();
  }
  return absl::CancelledError(absl::StrCat(signals_.Take(), " ended it before the machine ran"));
}

void Monitor::WaitForEnd() {
  lock_clock_.Join();
  ReleaseUnusedMemory();
  pollfd polled[] = {{signals_.fd(), POLLIN, 0}, {ended_.fd(), POLLIN, 0}};
  while (PollFor(polled, absl::InfiniteDuration()) == 0) {
  }
  if (polled[0].revents != 0) {
    IfThereIsMemory([this] { Log().info("stopping the machine: {}", signals_.Take()); });
  }
}

StopInfo Monitor::Stop() {
  if (mover_->MustWait()) {
    IfThereIsMemory([] {
      Log().warn(
          "the guest went over and may still need its memory from here: the monitor ends when it has all of it "
          "(`ferrite recover` helps when the connection was lost); a signal ends it at once");
    });
    signals_.LetThrough();
    mover_->WaitUntilNotNeeded();
  }
  // No disk stands still for a target any more.
  mirrors_->BeginEnd();
  // Clients get nothing more of the machine: neither a queue of operations nor one move after the other holds this up.
  if (server_ != nullptr) {
    server_->BeginEnd();
  }
  mover_->BeginEnd();
  // Too late is no error: then the move ends by itself.
  IfThereIsMemory([this] { (void)mover_->Cancel(); });
  mover_->Leave();
  mover_->Wait();
  machine_->Stop();
  StopInfo info = machine_->WaitUntilStopped();
  if (!mirrors_->AwaitOver(kMirrorPatience)) {
    // What is in flight there cannot be taken back, and ends with the process.
    IfThereIsMemory([] { Log().warn("the target of a mirror does not answer: the monitor ends without it"); });
    LeaveRunDir();
    RawTerminal::Restore();
    _exit(kExitOk);
  }
  Close();
  return info;
}

void Monitor::Close() {
  {
    absl::MutexLock lock(&mutex_);
    published_to_ = nullptr;
  }
  server_.reset();
  mover_.reset();
  mirrors_.reset();
}

}  // namespace ferrite
