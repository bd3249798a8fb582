// The thread that runs one vCPU: KVM_RUN, and what the guest asks of the monitor in between.
#ifndef FERRITE_VMM_MACHINE_VCPU_THREAD_H_
#define FERRITE_VMM_MACHINE_VCPU_THREAD_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/run_delay.h"
#include "base/thread.h"
#include "devices/bus/bus.h"
#include "memory/guest_memory.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/machine/machine.h"

namespace ferrite {

// A thread "vcpu-N" that is parked or runs the guest. Parked means: out of KVM_RUN, the last exit completed (what the
// guest read is in its registers), so that the vCPU's state is whole.
//
// Pausing uses kvm_run::immediate_exit together with a signal: SIGRTMIN, whose handler does nothing, is taken for this
// in the whole process.
//
// Threads: any, unless a method says otherwise.
class VcpuThread {
 public:
  // What the machine hears of its vCPUs, on their threads. Nothing here may block on a vCPU.
  class Listener {
   public:
    virtual ~Listener() = default;
    // About to enter the guest after having been parked.
    virtual void OnEnter() = 0;
    // The guest cannot go on, or asks to be switched off or reset by a system event. The vCPU parks itself.
    virtual void OnGuestEnd(StopReason reason, std::string details) = 0;
    // A dirty ring is full.
    virtual absl::Status OnDirtyRingFull() = 0;
  };

  // Starts the thread, parked. All arguments outlive it.
  static absl::StatusOr<std::unique_ptr<VcpuThread>> Create(KvmVcpu& vcpu, GuestMemory& memory, Bus& mmio, Bus& ports,
                                                            Listener& listener);
  // Ends the thread; not to be called on it.
  ~VcpuThread();
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;

  KvmVcpu& vcpu() { return vcpu_; }

  // Starts the guest; no effect when it runs.
  void Run();
  // Asks the thread to park, and returns at once. Also for the vCPU's own thread, which parks when it has completed
  // the exit that it is in.
  void RequestPark();
  // Waits until the thread is parked. After RequestPark().
  void WaitUntilParked();

  // Keeps the vCPU out of the guest while `on`, whatever it is asked for; it is not parked by that.
  void SetBarred(bool on);

  // How long it waited for a processor of the host when it was last told to run; so far, where it still waits.
  absl::Duration EntryWait();

  // Waits for the thread to have started.
  pid_t thread_id();

 private:
  enum class Want { kPark, kRun, kEnd };

  // Machine checks for one page, one soon after the other.
  struct LostTouches {
    int count = 0;
    MonotonicTime last = MonotonicTime::InfinitePast();
    // One more now.
    int Count();
  };

  VcpuThread(KvmVcpu& vcpu, GuestMemory& memory, Bus& mmio, Bus& ports, Listener& listener)
      : vcpu_(vcpu), memory_(memory), mmio_(mmio), ports_(ports), listener_(listener) {}

  void Loop();
  // Parks. Returns whether to run again.
  bool WaitForRun(const RunDelay& delay);
  void RunGuest();
  bool WaitsForInit() const;
  bool ShouldPark();
  // Returns false when the vCPU cannot go on.
  bool HandleExit();
  void HandlePortIo();
  bool HandleMmio();
  // The guest touched memory that the host lost: lists the page, and tells the guest. Returns false when the vCPU
  // cannot go on.
  bool HandleLost(uintptr_t host);
  // Of the 4 KiB at `page`. `often`: it was told of this or another one so often already that it is of no use.
  bool TellOfLost(GuestAddress page, bool often = false);
  // KVM_RUN found memory that is not to be had: handles it as HandleLost() if it can be a lost page; nothing otherwise.
  std::optional<bool> HandleHidden();
  bool WasToldJustNow(GuestAddress page) const;
  void End(StopReason reason, absl::FunctionRef<std::string()> what);
  void KickLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  KvmVcpu& vcpu_;
  GuestMemory& memory_;
  Bus& mmio_;
  Bus& ports_;
  Listener& listener_;

  absl::Mutex mutex_;
  Want want_ ABSL_GUARDED_BY(mutex_) = Want::kPark;
  bool parked_ ABSL_GUARDED_BY(mutex_) = true;
  bool barred_ ABSL_GUARDED_BY(mutex_) = false;
  MonotonicTime told_ ABSL_GUARDED_BY(mutex_);  // to run, last
  absl::Duration entry_wait_ ABSL_GUARDED_BY(mutex_);
  pid_t thread_id_ ABSL_GUARDED_BY(mutex_) = 0;

  // The thread's own.
  std::map<GuestAddress, LostTouches> lost_touches_;
  size_t hidden_turn_ = 0;
  LostTouches hidden_touches_;  // of any page

  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_VCPU_THREAD_H_
