// One vCPU of KVM: the run page, its registers, and every other part of its state.
#ifndef FERRITE_VMM_KVM_VCPU_H_
#define FERRITE_VMM_KVM_VCPU_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "vmm/kvm/dirty_ring.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

// Threads: Run() is called by the vCPU's own thread. Everything else, too, or by another one while the vCPU is known to
// be out of Run(): the kernel lets every call on the vCPU wait until KVM_RUN has come back. RequestExit(), dirty_ring()
// and what is only looked up here (index, cpuid, tsc_khz, xsave_bytes) may be used at any time.
class KvmVcpu {
 public:
  KvmVcpu(uint32_t index, Fd fd, Mapping run_page, std::optional<DirtyRing> ring, size_t xsave_bytes)
      : index_(index),
        fd_(std::move(fd)),
        run_page_(std::move(run_page)),
        dirty_ring_(std::move(ring)),
        xsave_bytes_(xsave_bytes),
        tsc_khz_(ReadTscKhz()) {}

  uint32_t index() const { return index_; }
  int fd() const { return fd_.get(); }
  kvm_run& run() const { return *reinterpret_cast<kvm_run*>(run_page_.data()); }
  size_t run_bytes() const { return run_page_.size(); }
  // Null unless the VM was made with DirtyMode::kRing.
  DirtyRing* dirty_ring() { return dirty_ring_.has_value() ? &*dirty_ring_ : nullptr; }

  // KVM_RUN. Returns 0 when run().exit_reason says why it came back, else the errno: EINTR (a signal or RequestExit()),
  // EAGAIN (try again: the vCPU waited for its INIT; or the VM never ran, and there is no room for a task that KVM
  // needs for it), EFAULT, EHWPOISON and others (it cannot run).
  int Run();

  // While `requested`, Run() completes the exit before and comes back with EINTR without entering the guest
  // (kvm_run::immediate_exit). A vCPU that is in the guest already needs a signal as well, sent afterwards.
  void RequestExit(bool requested);

  // KVM_SET_CPUID2; the kernel takes no other one once the vCPU ran. Kept for Save.
  absl::Status SetCpuid(std::span<const kvm_cpuid_entry2> entries);
  std::span<const kvm_cpuid_entry2> cpuid() const { return cpuid_; }

  absl::StatusOr<kvm_regs> GetRegs() const;
  absl::Status SetRegs(const kvm_regs& regs) const;
  absl::StatusOr<kvm_sregs> GetSregs() const;
  absl::Status SetSregs(const kvm_sregs& sregs) const;
  absl::StatusOr<kvm_mp_state> GetMpState() const;
  absl::Status SetMpState(const kvm_mp_state& state) const;
  absl::StatusOr<kvm_xcrs> GetXcrs() const;
  absl::Status SetXcrs(const kvm_xcrs& xcrs) const;
  absl::StatusOr<kvm_debugregs> GetDebugRegs() const;
  absl::Status SetDebugRegs(const kvm_debugregs& registers) const;
  absl::StatusOr<kvm_lapic_state> GetLapic() const;
  absl::Status SetLapic(const kvm_lapic_state& lapic) const;
  absl::StatusOr<kvm_vcpu_events> GetEvents() const;
  absl::Status SetEvents(const kvm_vcpu_events& events) const;

  // The bytes of this VM's xsave area: 4096, or more where the guest may use larger registers (KVM_CAP_XSAVE2).
  size_t xsave_bytes() const { return xsave_bytes_; }
  absl::StatusOr<std::vector<uint8_t>> GetXsave() const;
  // `area` has xsave_bytes().
  absl::Status SetXsave(std::span<const uint8_t> area) const;

  // Reads the registers of `indices`; those that the kernel refuses are not in the answer.
  absl::StatusOr<std::vector<kvm_msr_entry>> GetMsrs(std::span<const uint32_t> indices) const;
  // Writes `entries` in their order and returns those that the kernel refused.
  absl::StatusOr<std::vector<kvm_msr_entry>> SetMsrs(std::span<const kvm_msr_entry> entries) const;

  // KVM_SET_GUEST_DEBUG: no breakpoints, no single step.
  absl::Status DisableGuestDebug() const;
  // The frequency of the guest's TSC; 0 when the kernel does not say. Known without a call, which would have to wait
  // for the vCPU to come out of KVM_RUN.
  uint32_t tsc_khz() const { return tsc_khz_; }
  absl::Status SetTscKhz(uint32_t khz);
  // KVM_VCPU_TSC_OFFSET: the guest's TSC is the host's (scaled) plus this. Absent where the kernel has it not.
  std::optional<uint64_t> GetTscOffset() const;
  absl::Status SetTscOffset(uint64_t offset) const;
  // KVM_KVMCLOCK_CTRL: tells a guest with a KVM clock that it was paused, so that its watchdog does not bark. OK when
  // the guest uses no KVM clock or the kernel has no such call.
  absl::Status NotifyPaused() const;

  // KVM_X86_SETUP_MCE: machine-check banks with software recovery, as far as the host has them.
  absl::Status SetUpMachineCheck(int kvm_fd) const;
  // KVM_X86_SET_MCE. OK also where the kernel does nothing, or makes a triple fault of it: TellOfMemoryError() looks.
  absl::Status SetMachineCheck(const kvm_x86_mce& error) const;

 private:
  uint32_t ReadTscKhz() const;
  template <typename T>
  absl::StatusOr<T> Get(unsigned long request, const char* name) const;
  template <typename T>
  absl::Status Set(unsigned long request, const T& value, const char* name) const;

  const uint32_t index_;
  Fd fd_;
  Mapping run_page_;
  std::optional<DirtyRing> dirty_ring_;
  const size_t xsave_bytes_;
  uint32_t tsc_khz_;
  std::vector<kvm_cpuid_entry2> cpuid_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_VCPU_H_
