// A vCPU's state at power-on, and at the kernel's entry.
#ifndef FERRITE_VMM_MACHINE_VCPU_SETUP_H_
#define FERRITE_VMM_MACHINE_VCPU_SETUP_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "vmm/boot/boot_entry.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/vcpu.h"

namespace ferrite {

// What the vCPU `index` of a machine of `count` is told of its processor on this host.
std::vector<kvm_cpuid_entry2> CpuidOnThisHost(const Kvm& kvm, uint32_t index, uint32_t count);

// A vCPU fresh from KVM → power-on: CPUID, and memory types on (all of it write-back), as firmware leaves them.
absl::Status SetUpVcpu(const Kvm& kvm, KvmVcpu& vcpu, uint32_t cpu_count);

// A vCPU at power-on → at `entry`.
absl::Status EnterKernel(KvmVcpu& vcpu, const BootEntry& entry);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_VCPU_SETUP_H_
