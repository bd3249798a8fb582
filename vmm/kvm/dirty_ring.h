// The ring in which KVM notes the pages that one vCPU wrote (KVM_CAP_DIRTY_LOG_RING_ACQ_REL).
#ifndef FERRITE_VMM_KVM_DIRTY_RING_H_
#define FERRITE_VMM_KVM_DIRTY_RING_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "vmm/kvm/kvm_abi.h"

namespace ferrite {

// Threads: the kernel produces; one thread at a time reaps, also while the vCPU runs.
class DirtyRing {
 public:
  // Maps the ring of `entries` (a power of two, as enabled on the VM) of the vCPU behind `vcpu_fd`.
  static absl::StatusOr<DirtyRing> Create(int vcpu_fd, uint32_t entries);

  // Calls `written(slot, page in the slot)` for each entry, oldest first, and hands the entries back. Pages are
  // protected again, and their room in the ring is free, after KvmVm::ResetDirtyRings(). Returns the number of entries.
  uint32_t Reap(const std::function<void(uint32_t, uint64_t)>& written);

 private:
  DirtyRing(Mapping mapping, uint32_t entries) : mapping_(std::move(mapping)), entries_(entries) {}

  Mapping mapping_;
  uint32_t entries_;
  uint32_t next_ = 0;  // free-running
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_DIRTY_RING_H_
