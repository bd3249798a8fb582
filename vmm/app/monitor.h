// The process around one machine: what `run` and `receive` have in common.
#ifndef FERRITE_VMM_APP_MONITOR_H_
#define FERRITE_VMM_APP_MONITOR_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/thread.h"
#include "vmm/app/monitor_options.h"
#include "vmm/app/stop_signals.h"
#include "vmm/console/console_hub.h"
#include "vmm/control/run_dir.h"
#include "vmm/control/server.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/machine.h"
#include "vmm/mirror/mirrors.h"
#include "vmm/move/mover.h"

namespace ferrite {

// Run directory, log, console, device loop, control server, and the machine when there is one. Objects end in the
// reverse order: clients first, then the machine, its console (which still prints what is buffered) and last the run
// directory, so that the name is free when nothing is left.
//
// Threads: the main thread.
class Monitor {
 public:
  // `name` is the machine's. Made before any other thread (StopSignals).
  static absl::StatusOr<std::unique_ptr<Monitor>> Create(const std::string& name, const MonitorOptions& options);
  ~Monitor();

  Kvm& kvm() { return *kvm_; }
  EventLoop& loop() { return *loop_; }
  ConsoleHub& console() { return *console_; }
  // Signalled when the machine has stopped, when somebody typed Ctrl-a x, and to end a monitor without a machine.
  EventFd& ended() { return ended_; }
  StopSignals& signals() { return signals_; }

  // For Machine::SetListener(): what happens goes to the log, to the control server, and to ended().
  std::function<void(const MachineEvent&)> Listener();

  // Serves the control socket, with the machine or, before there is one, without it.
  absl::Status Serve();
  // Takes a machine whose listener is Listener(), before Serve(); it can be moved, and its disks mirrored, from here
  // on.
  void SetMachine(std::unique_ptr<Machine> machine);
  // Serves a machine that somebody else still owns and that cannot be moved, once. Before it goes, SetArrivedMachine()
  // or Close(). `arrival` tells how far it is, `allows` as MovePort::Allows().
  void ServeArriving(Machine& machine, std::function<MoveStatus()> arrival,
                     std::function<absl::Status(Operation operation)> allows);
  // The move by which the machine of ServeArriving() came.
  void SetArrival(MoveStatus arrival);
  // Takes the machine of ServeArriving(), whose guest may run already; it can be moved from here on. All that this
  // needs has been there since ServeArriving(): nothing can be missing.
  void SetArrivedMachine(std::unique_ptr<Machine> machine) noexcept;

  // Between the steps of a start: CANCELLED when a signal asked for the end meanwhile.
  absl::Status CheckNotEnding();
  // Until ended() or a signal.
  void WaitForEnd();
  // Ends a move, the machine and the control server. A guest that was handed over gets its memory first, unless `stop
  // --force` gave that up; a signal (another one, where one has come already) ends the process at once. Returns how the
  // machine stopped.
  StopInfo Stop();
  // Ends the control server, and what moves the machine away.
  void Close();
  // The log stays when the run directory goes.
  void KeepLog() { run_dir_->KeepLog(); }
  // Removes the run directory: for a process that ends without more ado.
  void LeaveRunDir() { run_dir_.reset(); }

 private:
  Monitor(StopSignals signals, EventFd ended) : signals_(std::move(signals)), ended_(std::move(ended)) {}
  void OnEvent(const MachineEvent& event);
  ControlTarget Target(Machine* machine);
  // What the control server does with the machine, and takes time.
  void MakeMoverAndMirrors(Machine& machine);

  std::string name_;
  Thread lock_clock_;           // has what the first wait for a lock would have to wait for as well (WarmLockClock())
  std::string console_socket_;  // its path, if there is one
  StopSignals signals_;
  EventFd ended_;
  std::unique_ptr<Kvm> kvm_;
  std::unique_ptr<RunDir> run_dir_;
  Fd grant_directory_;  // the run directory; the mover's, once there is one
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ConsoleHub> console_;

  absl::Mutex mutex_;
  int logged_ ABSL_GUARDED_BY(mutex_) = 0;
  ControlServer* published_to_ ABSL_GUARDED_BY(mutex_) = nullptr;

  std::unique_ptr<Machine> machine_;
  std::unique_ptr<Mover> mover_;
  std::unique_ptr<Mirrors> mirrors_;
  ControlTarget arrived_target_;  // for when the machine of ServeArriving() has arrived
  std::unique_ptr<ControlServer> server_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_MONITOR_H_
