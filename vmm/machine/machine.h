// One virtual machine: RAM, vCPUs, devices, and the order in which they start, stop, save and load.
#ifndef FERRITE_VMM_MACHINE_MACHINE_H_
#define FERRITE_VMM_MACHINE_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "memory/guest_memory.h"
#include "proto/state.capnp.h"
#include "vmm/machine/machine_config.h"

namespace ferrite {

class BalloonPort;
class EventLoop;
class Kvm;
class MachineDisks;
class MovableMachine;
class SerialBackend;

// created: nothing loaded yet. paused ⇄ running. stopped: for good.
enum class MachineState { kCreated, kPaused, kRunning, kStopped };
absl::string_view MachineStateName(MachineState state);

enum class StopReason {
  kPowerOff,    // the guest powered off (ACPI S5)
  kReset,       // the guest reset itself and reboot_on_reset is false
  kRequested,   // Stop()
  kGuestFault,  // triple fault, or an exit that KVM could not handle: the guest cannot go on
  kError,       // the monitor or the host failed
  kMoved,       // the guest runs in another monitor: Leave()
};

// "power-off", "reset", "requested", "guest fault", "error", "moved".
absl::string_view StopReasonName(StopReason reason);

struct StopInfo {
  StopReason reason = StopReason::kRequested;
  // For a fault or an error: the exit's own details and the vCPU's registers, several lines.
  std::string details;
};

struct MachineEvent {
  // kMove and kMirror do not come from the machine, but from those who move it, or its disks.
  enum class Kind { kRunning, kPaused, kReset, kStopped, kBalloon, kMove, kLostPage, kMirror };
  Kind kind;
  // kStopped: the reason and its details. kBalloon: the balloon's size in bytes. kMove, kMirror: where it stands.
  // kLostPage: the guest-physical address of a page that the host lost, as somebody touched it. Else empty.
  std::string text;
};

// Threads: every public method may be called from any thread but a vCPU's or the device loop's; Pause, Resume, Reset,
// Save and LoadState take turns. vCPU i runs on a thread named "vcpu-i".
class Machine {
 public:
  // Makes the VM, its memory, vCPUs and devices; finds the kernel and the initrd, opens and locks the disks. Nothing
  // runs. `console` (may be null) and `kvm` outlive the machine. `loop` runs the devices' work.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const MachineConfig& config, Kvm& kvm, EventLoop& loop,
                                                         SerialBackend* console);
  // Stops the machine when it was not.
  virtual ~Machine() = default;

  // created → paused: loads the kernel of the configuration and sets the vCPUs to its entry.
  virtual absl::Status Boot() = 0;
  // paused → running. Running already is OK. Disks that are released are acquired first; on an error it stays paused.
  virtual absl::Status Resume() = 0;
  // running → paused: all vCPUs are out of KVM_RUN with their exits completed, the devices are quiesced, and nothing of
  // the monitor writes guest memory after it returned. Paused already is OK.
  virtual absl::Status Pause() = 0;
  // As if the reset button was pressed: devices and vCPUs to power-on, kernel and initrd loaded anew, from the very
  // files that were found first; paused stays paused. When that fails midway, the machine is stopped with the error.
  virtual absl::Status Reset() = 0;
  // → stopped; vCPU threads have ended. Idempotent.
  virtual void Stop() = 0;
  // Blocks until the machine is stopped.
  virtual StopInfo WaitUntilStopped() = 0;

  // Paused only: the complete state of vCPUs, irqchip, clock and devices. Guest memory is not part of it.
  virtual absl::Status Save(state::Machine::Builder out) = 0;
  // Checks everything in `in` against this machine, changing nothing (R7): versions, devices, lengths, ranges.
  virtual absl::Status CheckState(state::Machine::Reader in) const = 0;
  // created or paused → paused: CheckState(), then applies it. Loading may touch guest memory (it is there, or it
  // faults in). When the kernel refuses a part, the machine is stopped with that error.
  virtual absl::Status LoadState(state::Machine::Reader in) = 0;

  // What only a move needs of it, and what a mirror needs.
  virtual MovableMachine& moving() = 0;
  virtual MachineDisks& disks() = 0;

  virtual MachineState state() const = 0;
  // As it is now: the paths of disks may change (MachineDisks::ReplaceImage()). Never waits for an operation.
  virtual MachineConfig config() const = 0;
  virtual GuestMemory& memory() = 0;
  // Null when the machine has none. It lives as long as the machine.
  virtual BalloonPort* balloon() = 0;

  // Calls `listener` for each event, on the thread that caused it; it must not call back into the machine. Set once,
  // before Boot() or LoadState().
  virtual void SetListener(std::function<void(const MachineEvent&)> listener) = 0;

  // For the start-up figures: config().started_ns, or when the machine was created, and how many ns after it the first
  // vCPU entered the guest; 0 before it did.
  virtual int64_t started_ns() const = 0;
  virtual int64_t first_entry_ns() const = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_H_
