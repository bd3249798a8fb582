// The guest's CPUID: what the host supports, with the machine's own topology, and without what ferrite cannot save.
//
// Source: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E, Documentation/virt/kvm/x86/cpuid.rst.
#ifndef FERRITE_VMM_KVM_CPUID_H_
#define FERRITE_VMM_KVM_CPUID_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

struct GuestCpu {
  uint32_t index = 0;         // of this vCPU: its APIC id
  uint32_t count = 1;         // of the machine: one package of `count` cores with one thread each
  bool tsc_deadline = false;  // the local APIC has the TSC deadline mode (KVM_CAP_TSC_DEADLINE_TIMER)
};

// The CPUID of one vCPU, for KVM_SET_CPUID2. `supported` is KVM_GET_SUPPORTED_CPUID's.
//
// An AMD guest is told that it can recover from lost memory (leaf 0x80000007: SUCCOR, overflow recovery), which the
// monitor makes true whatever the host's processor can do.
//
// Left out, because the state that belongs to it is not saved or not offered: performance counters, nested
// virtualisation (VMX, SVM), SGX, processor trace, MPX, shadow stacks, SMM-like and debug extensions, and every xsave
// component that is not known here. Features that need an xsave component go with it. KVM's own leaves stay.
std::vector<kvm_cpuid_entry2> GuestCpuid(std::span<const kvm_cpuid_entry2> supported, const GuestCpu& cpu);

// Whether a guest that was told `guest` can go on with a processor of `host`, the GuestCpuid() of this host: the same
// vendor, no feature that is missing here, no wider physical addresses. The error names the first feature that is in
// the way.
absl::Status CheckCpuidFits(std::span<const kvm_cpuid_entry2> guest, std::span<const kvm_cpuid_entry2> host);

// Whether it is that of a processor of AMD's, or Hygon's.
bool IsAmd(std::span<const kvm_cpuid_entry2> cpuid);

// Whether the guest was told that it can recover from lost memory (SUCCOR and overflow recovery, AMD's).
bool CanRecoverFromErrors(std::span<const kvm_cpuid_entry2> cpuid);

// The bits of a guest-physical address (leaf 0x80000008); 36 when the leaf is missing.
uint32_t PhysicalAddressBits(std::span<const kvm_cpuid_entry2> cpuid);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_CPUID_H_
