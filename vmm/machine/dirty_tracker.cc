#include "vmm/machine/dirty_tracker.h"

#include <algorithm>

#include "base/status.h"

namespace ferrite {
namespace {

// KVM_CLEAR_DIRTY_LOG keeps vCPUs that fault waiting: 256 MiB at a time.
constexpr uint64_t kClearPages = 65536;

}  // namespace

std::vector<KvmMemorySlot> SlotsOf(GuestMemory& memory) {
  std::vector<KvmMemorySlot> slots;
  for (const std::unique_ptr<MemoryRegion>& region : memory.regions()) {
    slots.push_back(
        {.slot = static_cast<uint32_t>(slots.size()), .base = region->base(), .host = region->guest_mapping()});
  }
  return slots;
}

DirtyTracker::DirtyTracker(KvmVm& vm, GuestMemory& memory, std::vector<KvmVcpu*> vcpus)
    : vm_(vm), memory_(memory), vcpus_(std::move(vcpus)) {}

absl::Status DirtyTracker::SetLogging(bool on) {
  for (KvmMemorySlot& slot : SlotsOf(memory_)) {
    slot.log_dirty = on;
    FERRITE_RETURN_IF_ERROR(vm_.SetSlot(slot));
  }
  return absl::OkStatus();
}

absl::Status DirtyTracker::Start() {
  absl::MutexLock lock(&mutex_);
  if (on_) {
    return absl::FailedPreconditionError("dirty tracking is on already");
  }
  if (vm_.dirty_mode() == DirtyMode::kRing) {
    reaped_.clear();
    for (const std::unique_ptr<MemoryRegion>& region : memory_.regions()) {
      reaped_.push_back(std::make_unique<PageBitmap>(region->pages()));
    }
  }
  FERRITE_RETURN_IF_ERROR(SetLogging(true));
  on_ = true;
  first_.assign(memory_.regions().size(), true);
  return absl::OkStatus();
}

absl::Status DirtyTracker::Stop() {
  absl::MutexLock lock(&mutex_);
  if (!on_) {
    return absl::OkStatus();
  }
  FERRITE_RETURN_IF_ERROR(SetLogging(false));
  if (vm_.dirty_mode() == DirtyMode::kRing) {
    // What is left in the rings is of no interest, but it would come up in the next tracking.
    FERRITE_RETURN_IF_ERROR(ReapRingsLocked());
    reaped_.clear();
  }
  on_ = false;
  return absl::OkStatus();
}

absl::Status DirtyTracker::Collect(size_t index, PageBitmap& dirty) {
  absl::MutexLock lock(&mutex_);
  if (!on_) {
    return absl::FailedPreconditionError("dirty tracking is off");
  }
  const auto regions = memory_.regions();
  FERRITE_CHECK(index < regions.size());
  MemoryRegion& region = *regions[index];
  FERRITE_CHECK(dirty.pages() == region.pages());
  if (vm_.dirty_mode() == DirtyMode::kRing) {
    // The rings are the vCPUs', of all regions.
    FERRITE_RETURN_IF_ERROR(ReapRingsLocked());
    reaped_[index]->TakeInto(dirty);
  } else {
    FERRITE_RETURN_IF_ERROR(CollectLog(static_cast<uint32_t>(index), dirty));
  }
  region.own_writes().TakeInto(dirty);
  if (first_[index]) {
    dirty.SetRange(0, region.pages());
    first_[index] = false;
  }
  return absl::OkStatus();
}

absl::Status DirtyTracker::CollectLog(uint32_t slot, PageBitmap& dirty) {
  std::vector<uint64_t> words(dirty.words());
  FERRITE_RETURN_IF_ERROR(vm_.GetDirtyLog(slot, words));
  dirty.OrWords(words);
  if (!vm_.manual_protect()) {
    return absl::OkStatus();
  }
  // Cleared before anyone reads the pages: what is written from here on is in the next collection.
  for (uint64_t first = 0; first < dirty.pages(); first += kClearPages) {
    const uint64_t pages = std::min(kClearPages, dirty.pages() - first);
    const std::span<const uint64_t> piece = std::span(words).subspan(first / 64, (pages + 63) / 64);
    if (std::any_of(piece.begin(), piece.end(), [](uint64_t word) { return word != 0; })) {
      FERRITE_RETURN_IF_ERROR(vm_.ClearDirtyLog(slot, first, static_cast<uint32_t>(pages), piece));
    }
  }
  return absl::OkStatus();
}

absl::Status DirtyTracker::ReapRings() {
  absl::MutexLock lock(&mutex_);
  return ReapRingsLocked();
}

absl::Status DirtyTracker::ReapRingsLocked() {
  for (KvmVcpu* vcpu : vcpus_) {
    vcpu->dirty_ring()->Reap([this](uint32_t slot, uint64_t page) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (slot < reaped_.size() && page < reaped_[slot]->pages()) {
        reaped_[slot]->Set(page);
      }
    });
  }
  return vm_.ResetDirtyRings().status();
}

}  // namespace ferrite
