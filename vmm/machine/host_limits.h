// What this host can give to one machine, as figures: whoever decides by them needs no KVM.
#ifndef FERRITE_VMM_MACHINE_HOST_LIMITS_H_
#define FERRITE_VMM_MACHINE_HOST_LIMITS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

struct HostMemory {
  uint64_t bytes = 0;  // RAM and swap
  uint64_t swap_bytes = 0;
};

struct HostLimits {
  uint32_t max_vcpus = 0;               // of one machine (KVM_CAP_MAX_VCPUS)
  std::vector<kvm_cpuid_entry2> cpuid;  // Kvm::supported_cpuid()
  bool tsc_deadline = false;            // KVM_CAP_TSC_DEADLINE_TIMER
  HostMemory memory;
};

absl::StatusOr<HostMemory> ReadHostMemory();
absl::StatusOr<HostLimits> ReadHostLimits(const Kvm& kvm);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_HOST_LIMITS_H_
