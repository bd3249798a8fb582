// The memory of a guest that comes.
#ifndef FERRITE_MIGRATION_PLACING_MEMORY_LANDING_H_
#define FERRITE_MIGRATION_PLACING_MEMORY_LANDING_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "memory/guest_memory.h"
#include "migration/channel/outside_writers.h"
#include "migration/placing/incoming_part.h"
#include "migration/placing/memory_placer.h"
#include "migration/placing/page_states.h"
#include "migration/placing/userfault.h"

namespace ferrite::migration {

// The first part of every machine: its regions have the numbers that they have in the GuestMemory. Threads: as
// IncomingPart.
class MemoryLanding final : public IncomingPart {
 public:
  // Both outlive it. Regions that are to have huge pages say so (MemoryRegion::thp()).
  MemoryLanding(GuestMemory& memory, const Clock& clock);

  absl::string_view name() const override { return "memory"; }
  size_t regions() const override { return placers_.size(); }
  MemoryPlacer& placer(size_t region) override { return *placers_[region]; }
  ~MemoryLanding() override;

  // Where bytes may be written from outside, by region: anonymous memory, and the second mapping where there is one. Of
  // other memory nothing may, and its span is empty.
  std::vector<std::span<uint8_t>> WritableFromOutside() const;
  // As MemoryPlacer::SetOutsideWriters(). They are ended at the latest with this object.
  void SetOutsideWriters(std::shared_ptr<OutsideWriters> writers);
  void EndOutsideWriters();

  absl::Status Check(std::span<const MachineSpec::Region> theirs) const override;
  absl::Status OfferFaults(const UserfaultOpener& open_userfault) override;
  void WithdrawFaults() override;
  absl::Status Prepare() override;
  absl::Status ShowPoisoned() override;
  // FaultServer asks.
  absl::Status Arm(RequestQueue& requests, uint16_t first_region) override;
  absl::Status WakeWaiting() override;
  void LetGo() override;
  absl::Status Settle() override;
  uint64_t moved_pages() const;
  // Behind that, while the guest runs: MemoryPlacer::Compact() of all.
  uint64_t Compact(absl::FunctionRef<bool()> stop);
  uint64_t HugeBytes() const { return memory_.HugeBytes(); }

  MemoryRegion& region(size_t index) { return *memory_.regions()[index]; }
  // From OfferFaults() on.
  Userfault& userfault() { return *userfault_; }

 private:
  GuestMemory& memory_;
  std::vector<std::unique_ptr<PageStates>> states_;
  std::vector<std::unique_ptr<MemoryPlacer>> placers_;
  std::unique_ptr<Userfault> userfault_;
  bool armed_ = false;
  std::shared_ptr<OutsideWriters> writers_;  // null: nobody
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_MEMORY_LANDING_H_
