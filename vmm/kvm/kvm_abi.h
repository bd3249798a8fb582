// The kernel's KVM interface: <linux/kvm.h> and what newer kernels added to it since Debian 12's headers (6.1).
//
// Source: include/uapi/linux/kvm.h and Documentation/virt/kvm/api.rst of Linux 6.18.
#ifndef FERRITE_VMM_KVM_KVM_ABI_H_
#define FERRITE_VMM_KVM_KVM_ABI_H_

// The headers of Linux 6.1 declare a flexible array as a struct that has an empty struct before it. That has no size in
// C, but one byte in C++: kvm_cpuid2, kvm_msrs, kvm_xsave and others come out too long, and so do the ioctl numbers
// that their sizes are part of.
#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]
#include <linux/kvm.h>

#include <cstdint>

#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4 &&
              sizeof(kvm_xsave) == 4096);

namespace ferrite {

// kvm_run's fields for KVM_EXIT_MEMORY_FAULT; they start where kvm_run's union does.
struct KvmMemoryFault {
  uint64_t flags;
  uint64_t gpa;
  uint64_t size;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_KVM_ABI_H_
