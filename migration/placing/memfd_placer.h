// Puts arriving pages into a memfd of small pages.
#ifndef FERRITE_MIGRATION_PLACING_MEMFD_PLACER_H_
#define FERRITE_MIGRATION_PLACING_MEMFD_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/placing/memory_placer.h"

namespace ferrite::migration {

// What comes is read to a warm buffer and goes from there to the file: pwrite(2) before the switchover, UFFDIO_COPY
// after it. A page of a mapping that is read to costs a fault, a cleared page and an entry of the page cache, which is
// more than the copy.
class MemfdPlacer final : public MemoryPlacer {
 public:
  MemfdPlacer(MemoryRegion& region, PageStates& states) : MemoryPlacer(region, states) {}

  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun) override { return std::span<uint8_t>(); }
  absl::Status Put(PageRun run, const uint8_t* buffer) override { return Write(run, buffer); }
  absl::Status PutZero(PageRun run) override { return PunchZero(run); }
  absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun, Showing) override { return std::span<uint8_t>(); }
  absl::Status Publish(PageRun run, const uint8_t* buffer) override { return ShowCopy(run, buffer); }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_MEMFD_PLACER_H_
