// Puts arriving pages into huge pages of hugetlbfs.
#ifndef FERRITE_MIGRATION_PLACING_HUGETLB_PLACER_H_
#define FERRITE_MIGRATION_PLACING_HUGETLB_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/placing/memory_placer.h"

namespace ferrite::migration {

// Everything is read to where it belongs: before the switchover through the guest's mapping, after it through the alias
// mapping, which the guest does not see, and shown with UFFDIO_CONTINUE.
class HugetlbPlacer final : public MemoryPlacer {
 public:
  HugetlbPlacer(MemoryRegion& region, PageStates& states) : MemoryPlacer(region, states) {}

  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;
  absl::Status PutZero(PageRun run) override;
  absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun run, Showing showing) override;
  absl::Status Publish(PageRun run, const uint8_t* buffer) override;
  absl::Status ResolvePresent(uint64_t unit) override;

 private:
  std::span<uint8_t> Window(PageRun run) const;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_HUGETLB_PLACER_H_
