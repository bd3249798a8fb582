// Which pages were written: KVM's dirty log or dirty rings, and the monitor's own writes.
#ifndef FERRITE_VMM_MACHINE_DIRTY_TRACKER_H_
#define FERRITE_VMM_MACHINE_DIRTY_TRACKER_H_

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "memory/guest_memory.h"
#include "memory/page_bitmap.h"
#include "vmm/kvm/vm.h"

namespace ferrite {

// All regions, untracked, as a VM is made with them: region i of the memory is its slot i.
std::vector<KvmMemorySlot> SlotsOf(GuestMemory& memory);

// Of a VM that was made with SlotsOf() its memory. Contract of Start, Collect and Stop: Machine's dirty tracking.
class DirtyTracker {
 public:
  // `vm`, `memory` and `vcpus` outlive the tracker.
  DirtyTracker(KvmVm& vm, GuestMemory& memory, std::vector<KvmVcpu*> vcpus);

  absl::Status Start();
  absl::Status Collect(size_t index, PageBitmap& dirty);
  absl::Status Stop();

  // Makes room in the dirty rings; by the vCPU thread whose ring is full.
  absl::Status ReapRings();

 private:
  absl::Status SetLogging(bool on);
  absl::Status CollectLog(uint32_t slot, PageBitmap& dirty);
  absl::Status ReapRingsLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  KvmVm& vm_;
  GuestMemory& memory_;
  const std::vector<KvmVcpu*> vcpus_;

  absl::Mutex mutex_;
  bool on_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<bool> first_ ABSL_GUARDED_BY(mutex_);  // by region: nothing collected since Start()
  // By region: what was reaped from the rings and not collected yet.
  std::vector<std::unique_ptr<PageBitmap>> reaped_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MACHINE_DIRTY_TRACKER_H_
