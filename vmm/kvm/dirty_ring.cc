#include "vmm/kvm/dirty_ring.h"

#include <sys/mman.h>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr uint64_t kHostPageBytes = 4096;  // x86: the unit of KVM_DIRTY_LOG_PAGE_OFFSET

}  // namespace

absl::StatusOr<DirtyRing> DirtyRing::Create(int vcpu_fd, uint32_t entries) {
  FERRITE_ASSIGN_OR_RETURN(
      Mapping mapping, Mapping::Create("the vCPU's dirty ring", uint64_t{entries} * sizeof(kvm_dirty_gfn), MAP_SHARED,
                                       vcpu_fd, KVM_DIRTY_LOG_PAGE_OFFSET * kHostPageBytes));
  return DirtyRing(std::move(mapping), entries);
}

uint32_t DirtyRing::Reap(const std::function<void(uint32_t, uint64_t)>& written) {
  auto* ring = reinterpret_cast<kvm_dirty_gfn*>(mapping_.data());
  uint32_t reaped = 0;
  // At most one round: the kernel cannot fill an entry again before ResetDirtyRings().
  while (reaped < entries_) {
    kvm_dirty_gfn& entry = ring[next_ % entries_];
    // The flag is the kernel's word that the entry is complete, and ours that it was read: acquire and release.
    if ((__atomic_load_n(&entry.flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY) == 0) {
      break;
    }
    // The upper half of `slot` is the address space; x86 has a second one for SMM only.
    written(entry.slot & 0xffff, entry.offset);
    __atomic_store_n(&entry.flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    ++next_;
    ++reaped;
  }
  return reaped;
}

}  // namespace ferrite
