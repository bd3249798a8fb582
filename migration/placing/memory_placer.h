// Puts the arriving pages of a region of guest memory in place (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_
#define FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/memory_region.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/placing/userfault.h"

namespace ferrite::migration {

// Memory that this side cannot have is RESOURCE_EXHAUSTED. Threads: as Placer; Arm() by one thread while nothing is
// received.
class MemoryPlacer final : public Placer {
 public:
  // `states` has one unit for each host page of `region`; both outlive the placer.
  MemoryPlacer(MemoryRegion& region, PageStates& states);

  absl::Status Explain(const absl::Status& error) const override;

  // The guest's own memory. It is mapped for the guest here and at once (MADV_POPULATE_WRITE): neither the read nor the
  // guest ever faults on it.
  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;
  absl::Status FillZero(PageRun run) override;

  // --- The switchover: faults in the region are ours from here on ---

  // FAILED_PRECONDITION when the kernel cannot do it for this backing, with what it lacks.
  static absl::Status CanArm(MemoryBacking backing, const UserfaultFeatures& features);
  absl::Status Arm(Userfault& userfault);
  // All is here, and nobody places anything any more: the kernel handles faults again, and the guest's mapping is the
  // only one.
  absl::Status Disarm();

  // --- After it ---

  // The alias mapping, which the guest does not see; none of anonymous memory.
  absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun run) const override;
  absl::Status Publish(PageRun run, const uint8_t* buffer) override;
  absl::StatusOr<uint64_t> PublishZero(PageRun run) override;
  absl::StatusOr<uint64_t> PublishPoison(PageRun run);

  // A fault on a unit that is poisoned.
  absl::Status ResolvePoisoned(uint64_t unit);
  // A fault on a unit that is here: it is zero and was never mapped, or another thread has just shown it.
  absl::Status ResolvePresent(uint64_t unit);

 protected:
  // Punches holes.
  absl::Status Drop(PageRun run) override;

 private:
  std::span<uint8_t> Guest(PageRun run) const;
  std::span<uint8_t> Window(PageRun run) const;
  absl::Status Populate(std::span<uint8_t> memory) const;

  MemoryRegion& region_;
  const bool has_alias_;
  Userfault* userfault_ = nullptr;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_
