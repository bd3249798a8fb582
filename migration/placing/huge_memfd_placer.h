// Puts arriving pages into a memfd that may have huge pages.
#ifndef FERRITE_MIGRATION_PLACING_HUGE_MEMFD_PLACER_H_
#define FERRITE_MIGRATION_PLACING_HUGE_MEMFD_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "migration/placing/block_placer.h"

namespace ferrite::migration {

// Before the switchover blocks that are huge are read to where they belong, and others to a buffer that is written to
// the file. After it a block of which nothing is here is gathered in its own huge page, through a second mapping, and
// shown whole (UFFDIO_CONTINUE); what somebody waits for is copied (UFFDIO_COPY), or written to the page that is there
// already and shown.
//
// A huge page brings in its neighbours as zeros. They are in the file then, but the guest has them not mapped: whoever
// touches one waits, as for what is not in the file (MINOR faults; R1). What counts as absent is zero in the file, or a
// hole.
class HugeMemfdPlacer final : public BlockPlacer {
 public:
  HugeMemfdPlacer(MemoryRegion& region, PageStates& states, const Clock& clock) : BlockPlacer(region, states, clock) {}

  // Whether the kernel may have huge pages for `region`, asked for or not (transparent_hugepage/shmem_enabled).
  static bool MayBeHuge(const MemoryRegion& region);

  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;
  absl::Status Put(PageRun run, const uint8_t* buffer) override;
  absl::Status ResolvePresent(uint64_t page) override;
  absl::Status Disarm() override;

 protected:
  absl::StatusOr<bool> PrepareFaults(const UserfaultFeatures& features) override;
  absl::Status Drop(PageRun run) override;

  bool CanGather() const override { return !alias_.empty(); }
  absl::Status Stage(uint64_t block, Mapping& memory) override;
  absl::Status ShowPages(PageRun run, const uint8_t* bytes) override;
  uint64_t ShowBlock(uint64_t block, uint8_t* memory) override;
  // The guest has it mapped in pieces until Compact() maps it as one.
  Block WholeBlock() const override { return Block::kSmall; }

 private:
  // Whether all of `run` lies in huge blocks.
  bool IsHuge(PageRun run) const;
  // The guest has nothing mapped of blocks that are not all here.
  absl::Status UnmapParts();
  // What counts as absent becomes a hole, for kernels that tell of holes alone.
  absl::Status PunchAbsent();

  Mapping alias_;  // from Arm() to Disarm(), where the kernel tells of MINOR faults
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_HUGE_MEMFD_PLACER_H_
