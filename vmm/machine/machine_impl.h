// Machine, made of its parts.
#ifndef FERRITE_VMM_MACHINE_MACHINE_IMPL_H_
#define FERRITE_VMM_MACHINE_MACHINE_IMPL_H_

#include <capnp/message.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "vmm/boot/boot_loader.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/dirty_tracker.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/machine/state_version.h"
#include "vmm/machine/vcpu_thread.h"
#include "vmm/machine/vcpu_throttle.h"

namespace ferrite {

// Operations take turns by `operation_mutex_`. What the guest asks for (a reset, to be switched off) and a vCPU that
// cannot go on come up on vCPU threads, which must not wait for an operation, since operations wait for them: they
// leave a request behind and park all vCPUs; whoever has the turn next carries it out, at the latest the thread
// "machine-ctl". Pause and Save therefore never show a machine with a request that is still to be carried out.
class MachineImpl final : public Machine, private MovableMachine, private MachineDisks, private VcpuThread::Listener {
 public:
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const MachineConfig& config, Kvm& kvm, EventLoop& loop,
                                                         SerialBackend* console);
  ~MachineImpl() noexcept override;

  absl::Status Boot() override;
  absl::Status Resume() override;
  absl::Status Pause() override;
  absl::Status Reset() override;
  void Stop() override;
  StopInfo WaitUntilStopped() override;
  absl::Status Save(state::Machine::Builder out) override;
  absl::Status CheckState(state::Machine::Reader in) const override;
  absl::Status LoadState(state::Machine::Reader in) override;

  // MovableMachine.
  absl::Status StartDirtyTracking() override { return dirty_tracker_->Start(); }
  absl::Status CollectDirty(size_t region, PageBitmap& dirty) override {
    return dirty_tracker_->Collect(region, dirty);
  }
  absl::Status StopDirtyTracking() override { return dirty_tracker_->Stop(); }
  absl::Status Describe(state::MachineDescription::Builder out) override;
  absl::StatusOr<bool> Hold(std::string why) override;
  void EndHold() override;
  absl::Status Arrive(bool run) override;
  void Leave(std::string where) override;
  absl::Status ReleaseDisks(std::span<const std::string> kept) override;
  absl::Status AcquireDisks() override;
  absl::Status SetThrottle(int percent) override;
  absl::StatusOr<absl::Duration> MeasureLoad() override;
  std::optional<uint32_t> VcpuOfThread(pid_t thread) const override;
  std::vector<pid_t> VcpuThreads() const override { return vcpu_thread_ids_; }
  absl::Duration EntryWait() const override;
  BalloonInhibitor::Token InhibitBalloon(std::string why) override;
  void AddUnneededPages(size_t region, PageBitmap& into) override;

  // MachineDisks.
  std::vector<Disk> List() const override;
  absl::Status CheckDisk(absl::string_view id) const override;
  absl::Status WithImage(absl::string_view id, const std::function<absl::Status(const DiskImage& image)>& use) override;
  absl::Status SetWitness(absl::string_view id, WriteWitness* witness) override;
  void AnswerHeld(absl::string_view id, uint64_t ticket) override;
  absl::Status AtStandstill(absl::string_view id, const std::function<absl::Status()>& work) override;
  absl::StatusOr<std::unique_ptr<DiskImage>> ReplaceImage(absl::string_view id,
                                                          std::unique_ptr<DiskImage> image) override;

  // Machine.
  MovableMachine& moving() override { return *this; }
  MachineDisks& disks() override { return *this; }
  MachineState state() const override { return state_.load(); }
  MachineConfig config() const override;
  GuestMemory& memory() override { return *memory_; }
  BalloonPort* balloon() override { return devices_->balloon_port(); }
  void SetListener(std::function<void(const MachineEvent&)> listener) override { listener_ = std::move(listener); }
  int64_t started_ns() const override { return started_ns_; }
  int64_t first_entry_ns() const override { return first_entry_ns_.load(); }

 private:
  // What a vCPU thread asks for.
  struct Request {
    StopReason reason;
    std::string details;
  };

  MachineImpl(const MachineConfig& config, Kvm& kvm)
      : config_(config),
        kvm_(kvm),
        started_ns_(config.started_ns != 0 ? config.started_ns : MonotonicNs()),
        device_configs_(config.devices) {}
  absl::Status Init(EventLoop& loop, SerialBackend* console);
  absl::Status MakeMemory();
  absl::Status MakeVcpus();
  // Lists pages that the kernel says are lost before anybody touches them.
  absl::Status ListenForLost(EventLoop& loop);

  // VcpuThread::Listener.
  void OnEnter() override;
  void OnGuestEnd(StopReason reason, std::string details) override;
  absl::Status OnDirtyRingFull() override { return dirty_tracker_->ReapRings(); }

  void RunControl();
  // Carries out what a vCPU thread asked for, if anything.
  void CarryOutRequest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  // FAILED_PRECONDITION that says what the machine is instead, and why.
  absl::Status WrongState(absl::string_view operation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void ChangeState(MachineState to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void Tell(MachineEvent::Kind kind, std::string text);

  absl::StatusOr<PreparedBoot> PrepareBoot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  absl::Status LoadKernelAndEnter(const PreparedBoot& boot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void ParkVcpus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void StartVcpus() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  // Of a paused machine. After an error it is paused still.
  absl::Status ResumeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void QuiesceDevices() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void PauseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  // After an error the machine is neither what it was nor what it was to be.
  absl::Status ResetLocked(const PreparedBoot& boot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  void StopLocked(StopInfo info) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  uint32_t StateVersion() const;
  absl::Status CheckStateLocked(state::Machine::Reader in) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  absl::Status SaveLocked(state::Machine::Builder out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);
  absl::Status Apply(state::Machine::Reader in) ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  // NOT_FOUND, with the ids that there are.
  absl::StatusOr<const DeviceSet::PlacedDisk*> FindDisk(absl::string_view id) const;
  // The disk's image, which stays there and held for as long as the mutex is held; FAILED_PRECONDITION when it is
  // released.
  absl::StatusOr<const DiskImage*> HeldImage(const DeviceSet::PlacedDisk& disk)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  // As it was made.
  const MachineConfig config_;
  Kvm& kvm_;
  const int64_t started_ns_;
  std::atomic<int64_t> first_entry_ns_{0};
  std::function<void(const MachineEvent&)> listener_;

  // Destroyed in the reverse order: threads first, memory after the VM that maps it.
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<KvmVm> vm_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
  std::unique_ptr<DirtyTracker> dirty_tracker_;
  std::unique_ptr<DeviceSet> devices_;
  // vCPUs and irqchip at power-on, for a reset.
  capnp::MallocMessageBuilder power_on_;

  mutable absl::Mutex operation_mutex_;
  std::optional<std::string> held_ ABSL_GUARDED_BY(operation_mutex_);  // and why
  bool arrived_ ABSL_GUARDED_BY(operation_mutex_) = false;             // and the devices have not been told
  std::atomic<MachineState> state_{MachineState::kCreated};            // changed with operation_mutex_ held

  mutable absl::Mutex disks_mutex_ ABSL_ACQUIRED_AFTER(operation_mutex_);
  // The configuration's devices as they are now.
  std::vector<DeviceConfig> device_configs_ ABSL_GUARDED_BY(disks_mutex_);
  // Set while AtStandstill() does its work.
  const DeviceSet::PlacedDisk* at_standstill_ ABSL_GUARDED_BY(disks_mutex_) = nullptr;

  absl::Mutex stop_mutex_ ABSL_ACQUIRED_AFTER(operation_mutex_);
  std::optional<StopInfo> stop_info_ ABSL_GUARDED_BY(stop_mutex_);

  absl::Mutex request_mutex_ ABSL_ACQUIRED_AFTER(operation_mutex_);
  std::optional<Request> request_ ABSL_GUARDED_BY(request_mutex_);
  bool ending_ ABSL_GUARDED_BY(request_mutex_) = false;

  std::vector<std::unique_ptr<VcpuThread>> vcpu_threads_;
  std::vector<pid_t> vcpu_thread_ids_;  // fixed
  std::unique_ptr<VcpuThrottle> throttle_;
  Thread control_thread_;
  Fd lost_pages_there_;
  std::unique_ptr<EventLoop::Watch> lost_pages_watch_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_MACHINE_IMPL_H_
