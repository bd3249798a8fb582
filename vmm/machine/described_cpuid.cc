#include "vmm/machine/described_cpuid.h"

#include <cstdint>

namespace ferrite {

void DescribeCpuid(std::span<const kvm_cpuid_entry2> cpuid, state::MachineDescription::Builder out) {
  auto leaves = out.initCpuid(static_cast<uint32_t>(cpuid.size()));
  for (uint32_t i = 0; i < cpuid.size(); ++i) {
    leaves[i].setFunction(cpuid[i].function);
    leaves[i].setIndex(cpuid[i].index);
    leaves[i].setFlags(cpuid[i].flags);
    leaves[i].setEax(cpuid[i].eax);
    leaves[i].setEbx(cpuid[i].ebx);
    leaves[i].setEcx(cpuid[i].ecx);
    leaves[i].setEdx(cpuid[i].edx);
  }
}

std::vector<kvm_cpuid_entry2> ReadCpuid(state::MachineDescription::Reader described) {
  std::vector<kvm_cpuid_entry2> cpuid;
  for (const state::CpuidLeaf::Reader leaf : described.getCpuid()) {
    kvm_cpuid_entry2 entry = {};
    entry.function = leaf.getFunction();
    entry.index = leaf.getIndex();
    entry.flags = leaf.getFlags();
    entry.eax = leaf.getEax();
    entry.ebx = leaf.getEbx();
    entry.ecx = leaf.getEcx();
    entry.edx = leaf.getEdx();
    cpuid.push_back(entry);
  }
  return cpuid;
}

}  // namespace ferrite
