// receive
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/poll.h"
#include "base/status.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket.h"
#include "migration/session/destination.h"
#include "vmm/app/commands.h"
#include "vmm/app/machine_files.h"
#include "vmm/app/monitor.h"
#include "vmm/console/raw_terminal.h"
#include "vmm/move/machine_arrival.h"

namespace ferrite {
namespace {

// How long a move is waited for whose guest is to be ended. It ends by itself before, unless it is stuck.
constexpr absl::Duration kMovePatience = absl::Seconds(8);
// A guest that misses pages cannot always be stopped.
constexpr absl::Duration kStopPatience = absl::Seconds(2);

// What the largest machine that may come has open here, with its move: its files were counted.
constexpr size_t MachineDescriptors(uint32_t cpus) {
  constexpr size_t kOfADisk = 8;
  constexpr size_t kOfAnotherDevice = 7;
  constexpr size_t kOther = 32;  // the machine's own, userfaultfd, and what is open for a moment
  return cpus + kMaxDisks * kOfADisk + 2 * kOfAnotherDevice + 2 * migration::kMaxChannels + kOther;
}

absl::Status TellReady(const CommandLine& line, const migration::Address& address) {
  fmt::print("{} waits at {}\n", line.run.config.name, address.ToString());
  (void)fflush(stdout);
  if (line.receive.ready_fd < 0) {
    return absl::OkStatus();
  }
  const std::string text = absl::StrCat(address.ToString(), "\n");
  if (write(line.receive.ready_fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(absl::StrCat("--ready-fd ", line.receive.ready_fd));
  }
  if (line.receive.ready_fd > STDERR_FILENO) {
    close(line.receive.ready_fd);
  }
  return absl::OkStatus();
}

MoveStatus ArrivalOf(const migration::Destination& session) {
  MoveStatus arrival;
  arrival.number = 1;
  arrival.guest = GuestPlace::kHereRunning;
  arrival.progress.state = session.state();
  arrival.report = session.report();
  return arrival;
}

// What clients may ask about a session, while there is one. Threads: any.
class ArrivalView {
 public:
  void Set(const migration::Destination* session) {
    const absl::MutexLock lock(&mutex_);
    session_ = session;
  }
  MoveStatus Get() const {
    const absl::MutexLock lock(&mutex_);
    return session_ == nullptr ? MoveStatus() : ArrivalOf(*session_);
  }
  // What waits for memory that is not here, or would be overwritten with the state that comes, is refused: nothing is
  // carried out when nobody waits for it any more.
  absl::Status Allows(absl::string_view operation) const {
    const absl::MutexLock lock(&mutex_);
    if (operation == "stop" || (session_ != nullptr && session_->HasGuest(/*whole=*/operation != kSetBalloon))) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(absl::StrCat("cannot ", operation, ": the machine is still arriving here"));
  }

 private:
  mutable absl::Mutex mutex_;
  const migration::Destination* session_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

// One incoming move, on a thread of its own.
class Incoming {
 public:
  static absl::StatusOr<std::unique_ptr<Incoming>> Start(migration::DestinationFactory& factory,
                                                         const migration::Destination::Options& options,
                                                         std::unique_ptr<migration::Listener> listener,
                                                         std::shared_ptr<ArrivalView> view) {
    FERRITE_ASSIGN_OR_RETURN(EventFd over, EventFd::Create());
    FERRITE_ASSIGN_OR_RETURN(auto session, migration::Destination::Create(factory, options));
    view->Set(session.get());
    std::unique_ptr<Incoming> incoming(
        new Incoming(std::move(over), std::move(session), std::move(listener), std::move(view)));
    FERRITE_ASSIGN_OR_RETURN(
        incoming->thread_, Thread::Start("receive", [incoming = incoming.get()] {
          incoming->result_ = CatchOutOfMemory([incoming] { return incoming->session_->Run(*incoming->listener_); });
          incoming->ran_.Notify();
          incoming->over_.Signal();
        }));
    return incoming;
  }
  ~Incoming() {
    // Too late is no error.
    IfThereIsMemory([this] { (void)session_->Cancel(); });
    session_->Leave();
    thread_.Join();
    view_->Set(nullptr);
  }

  const EventFd& over() const { return over_; }
  migration::Destination& session() { return *session_; }
  bool IsOverWithin(absl::Duration limit) { return ran_.WaitFor(limit); }
  // Once it is over. The thread may be about to end still, and waits in vain for that as long as a device of the guest
  // waits for a page: the kernel has it take the lock of the io_uring that it made, which is held meanwhile.
  const absl::Status& result() {
    (void)ran_.WaitFor(absl::InfiniteDuration());
    return result_;
  }
  // Waits for the end. A session that the guest still needs (post-copy that broke off) stays with this object.
  void Finish() {
    thread_.Join();
    listener_.reset();
  }

 private:
  Incoming(EventFd over, std::unique_ptr<migration::Destination> session, std::unique_ptr<migration::Listener> listener,
           std::shared_ptr<ArrivalView> view)
      : over_(std::move(over)), session_(std::move(session)), listener_(std::move(listener)), view_(std::move(view)) {}

  EventFd over_;
  std::unique_ptr<migration::Destination> session_;
  std::unique_ptr<migration::Listener> listener_;
  const std::shared_ptr<ArrivalView> view_;
  absl::Status result_;  // before ran_
  TimedNotification ran_;
  Thread thread_;
};

// What came of the wait for a machine.
enum class Wait {
  kOver,       // the move is over
  kCancelled,  // it was asked to end, and the guest never runs here
  kEnds,       // it was asked to end when the guest had been taken over
};

Wait WaitForArrival(Monitor& monitor, Incoming& incoming) {
  pollfd polled[] = {
      {incoming.over().fd(), POLLIN, 0}, {monitor.signals().fd(), POLLIN, 0}, {monitor.ended().fd(), POLLIN, 0}};
  while (PollFor(polled, absl::InfiniteDuration()) == 0) {
  }
  if (polled[0].revents != 0) {
    return Wait::kOver;
  }
  if (polled[1].revents != 0) {
    IfThereIsMemory([&] { Log().info("ending: {}", monitor.signals().Take()); });
    monitor.ended().Signal();
  }
  if (CatchOutOfMemory([&] { return incoming.session().Cancel(); }).ok()) {
    return Wait::kCancelled;
  }
  incoming.session().Leave();
  return Wait::kEnds;
}

absl::StatusOr<StopInfo> Receive(const CommandLine& line) {
  if (line.receive.ready_fd >= 0 && fcntl(line.receive.ready_fd, F_GETFD) < 0) {
    return ErrnoStatus(absl::StrCat("--ready-fd ", line.receive.ready_fd));
  }
  // As it is told to people, who may be in another directory.
  FERRITE_ASSIGN_OR_RETURN(const migration::Address listen, AbsoluteAddress(line.receive.listen));
  FERRITE_ASSIGN_OR_RETURN(const auto monitor, Monitor::Create(line.run, line.run_dir));
  for (const auto& [id, path] : line.receive.disk_paths) {
    WarnOfOthersDisk(path, /*read_only=*/false);  // the source will say whether it is
  }
  const auto view = std::make_shared<ArrivalView>();
  FERRITE_ASSIGN_OR_RETURN(
      const auto arrival,
      MachineArrival::Create(
          {.kvm = monitor->kvm(),
           .loop = monitor->loop(),
           .console = &monitor->console(),
           .built =
               [&](Machine& machine) {
                 machine.SetListener(monitor->Listener());
                 monitor->ServeArriving(
                     machine, [view] { return view->Get(); },
                     [view](absl::string_view operation) { return view->Allows(operation); });
               }},
          {.name = line.run.config.name,
           .disk_paths = line.receive.disk_paths,
           .disk_from = line.receive.disk_from,
           .trust_disks = line.receive.trust_disks,
           .kernel_path = line.receive.kernel_path,
           .initrd_path = line.receive.initrd_path,
           .boot_from = line.receive.boot_from,
           .lock_memory = line.receive.lock_memory,
           .dirty_ring = line.receive.dirty_ring,
           .limits = {.memory_bytes = line.receive.max_memory_bytes, .cpus = line.receive.max_cpus}}));
  FERRITE_ASSIGN_OR_RETURN(auto listener, migration::Listener::Create(listen));
  const migration::Address address = listener->address();
  FERRITE_RETURN_IF_ERROR(monitor->Serve());
  // Clients go before a machine that did not arrive.
  const absl::Cleanup close = [&] { monitor->Close(); };
  FERRITE_ASSIGN_OR_RETURN(auto incoming,
                           Incoming::Start(*arrival,
                                           {.patience = line.receive.patience,
                                            .from = line.receive.from,
                                            .machine_descriptors = MachineDescriptors(line.receive.max_cpus)},
                                           std::move(listener), view));
  FERRITE_RETURN_IF_ERROR(TellReady(line, address));
  const Wait wait = WaitForArrival(*monitor, *incoming);
  if (wait == Wait::kCancelled) {
    // That of a move that had failed when this came.
    const std::string why(incoming->result().message());
    incoming->Finish();
    return absl::CancelledError(absl::StrCat("ended before a machine arrived",
                                             absl::EndsWith(why, "cancelled") ? "" : absl::StrCat(": ", why)));
  }
  // Else the machine ends here while its memory still comes, or its source says nothing.
  const bool over = wait == Wait::kOver || incoming->IsOverWithin(kMovePatience);
  if (over) {
    const absl::Status result = incoming->result();
    const bool runs_here = result.ok() || incoming->session().state() == migration::MoveState::kPostcopyPaused;
    if (!runs_here) {
      incoming->Finish();
      return absl::Status(result.code(), absl::StrCat("no machine arrived: ", result.message()));
    }
    // The guest runs, and its source has let go of it: it stays, whatever is missing here for words.
    IfThereIsMemory([&] {
      MoveStatus arrived = ArrivalOf(incoming->session());
      arrived.over = true;
      arrived.result = result;
      monitor->SetArrival(std::move(arrived));
    });
    monitor->SetArrivedMachine(arrival->Take());
    if (result.ok()) {
      IfThereIsMemory([] { Log().info("the machine has arrived"); });
      incoming.reset();
      monitor->WaitForEnd();
      return monitor->Stop();
    }
    IfThereIsMemory([&] { Log().error("{}", std::string(result.message())); });
    monitor->WaitForEnd();
  }
  TimedNotification stopped;
  StopInfo info;
  Thread stopper;
  const absl::Status stops = CatchOutOfMemory([&]() -> absl::Status {
    FERRITE_ASSIGN_OR_RETURN(stopper, Thread::Start("stop", [&] {
                               if (over) {
                                 info = monitor->Stop();
                               } else {
                                 arrival->machine()->Stop();
                                 monitor->Close();
                               }
                               stopped.Notify();
                             }));
    return absl::OkStatus();
  });
  if (!stops.ok()) {
    IfThereIsMemory([&] { Log().warn("{}", std::string(stops.message())); });
  }
  const bool is_stopped = stops.ok() && stopped.WaitFor(kStopPatience);
  if (!is_stopped || !over) {
    // Somebody waits for a page that does not come. To let them go on without it would let a device write to a disk
    // what the guest never meant: they end with the process.
    Log().warn(is_stopped ? "the guest was stopped while its memory was still coming: its monitor ends without the rest"
                          : "the guest cannot be stopped, as when it waits for memory that is missing: its monitor "
                            "ends without it");
    monitor->LeaveRunDir();
    RawTerminal::Restore();
    _exit(over || incoming->session().HasGuest(/*whole=*/false) ? kExitOk : kExitFailure);
  }
  stopper.Join();
  incoming->Finish();
  return info;
}

}  // namespace

int ReceiveCommand(const CommandLine& line) {
  const auto info = Receive(line);
  return info.ok() ? ReportEnd(line.run.config.name, *info) : Fail(info.status(), kExitFailure);
}

}  // namespace ferrite
