// What to tell a person of a vCPU that cannot go on.
#ifndef FERRITE_VMM_MACHINE_EXIT_REPORT_H_
#define FERRITE_VMM_MACHINE_EXIT_REPORT_H_

#include <string>

#include "vmm/kvm/kvm_abi.h"
#include "vmm/kvm/vcpu.h"

namespace ferrite {

// Of a `run` whose exit is KVM_EXIT_MEMORY_FAULT.
KvmMemoryFault MemoryFaultOf(const kvm_run& run);

// The exit that `run` holds, with its own fields (Documentation/virt/kvm/api.rst, "The kvm_run structure"): one line.
std::string DescribeExit(const kvm_run& run);

// KVM_RUN's failure with `error`; where the kernel says so, the guest-physical address that it could not get.
std::string DescribeRunError(int error, const kvm_run& run);

// The vCPU's registers, several lines; what the kernel says when it does not give them.
std::string DescribeRegisters(const KvmVcpu& vcpu);

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_EXIT_REPORT_H_
