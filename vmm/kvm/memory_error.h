// Tells a guest by a machine check that a page of its memory is lost, so that it can go on without it.
//
// Source: Intel SDM volume 3, 15.9 and 15.10 (recovery); AMD APM volume 2, 9.3; KVM_X86_SET_MCE in
// Documentation/virt/kvm/api.rst. docs/broken_pages.md has the values.
#ifndef FERRITE_VMM_KVM_MEMORY_ERROR_H_
#define FERRITE_VMM_KVM_MEMORY_ERROR_H_

#include "absl/status/status.h"
#include "memory/guest_address.h"
#include "vmm/kvm/vcpu.h"

namespace ferrite {

// The vCPU was about to touch `page` and has not: it gets a machine check before the instruction when it runs next.
// FAILED_PRECONDITION, and the vCPU is as it was, when the guest cannot take one; the message says why. INTERNAL when
// the kernel took it and did not do it. On the vCPU's thread, out of Run().
absl::Status TellOfMemoryError(const KvmVcpu& vcpu, GuestAddress page);

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_MEMORY_ERROR_H_
