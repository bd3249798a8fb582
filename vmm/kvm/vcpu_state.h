// One vCPU's complete state ↔ state::Vcpu.
#ifndef FERRITE_VMM_KVM_VCPU_STATE_H_
#define FERRITE_VMM_KVM_VCPU_STATE_H_

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "proto/state.capnp.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

namespace ferrite {

inline constexpr uint32_t kVcpuStateVersion = 1;

// Keeps the vCPUs' TSCs apart by exactly what they were at the save: the first vCPU that is loaded sets it, the others
// follow. One for each LoadState.
struct TscAnchor {
  std::optional<uint64_t> offset_shift;
};

// Reads the state into `out`. The vCPU is out of KVM_RUN and its last exit is completed; so are all others of the VM.
absl::Status SaveVcpu(const Kvm& kvm, const KvmVcpu& vcpu, state::Vcpu::Builder out);

// Whether `in` fits `vcpu`: version, index, lengths, ranges, processor features of `host_cpuid` (the GuestCpuid() of
// this host), registers that this host's KVM does not know. Changes nothing (R7). The error begins with "vCPU <index>:
// ".
absl::Status CheckVcpu(const Kvm& kvm, const KvmVcpu& vcpu, std::span<const kvm_cpuid_entry2> host_cpuid,
                       state::Vcpu::Reader in);

// Applies `in`, for which CheckVcpu() was OK, to a vCPU as SaveVcpu() wants it; then the guest's TSC goes on from where
// it was at the save, or a little later, and never back. FAILED_PRECONDITION names registers whose value the kernel
// refuses, where it holds another one. After an error the vCPU is in between and must not run.
absl::Status LoadVcpu(KvmVcpu& vcpu, TscAnchor& anchor, state::Vcpu::Reader in);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_VCPU_STATE_H_
