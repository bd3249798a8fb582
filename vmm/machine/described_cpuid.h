// A vCPU's CPUID in a machine's description.
#ifndef FERRITE_VMM_MACHINE_DESCRIBED_CPUID_H_
#define FERRITE_VMM_MACHINE_DESCRIBED_CPUID_H_

#include <span>
#include <vector>

#include "proto/machine.capnp.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

void DescribeCpuid(std::span<const kvm_cpuid_entry2> cpuid, state::MachineDescription::Builder out);

// What DescribeCpuid() wrote, or a peer: as many leaves as there are, with any values.
std::vector<kvm_cpuid_entry2> ReadCpuid(state::MachineDescription::Reader described);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DESCRIBED_CPUID_H_
