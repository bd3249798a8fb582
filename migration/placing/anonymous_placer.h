// Puts arriving pages into private anonymous memory, with transparent huge pages where it is to have them.
#ifndef FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_
#define FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "migration/placing/block_placer.h"

namespace ferrite::migration {

// Before the switchover everything is read to where it belongs. After it a block (2 MiB) of which nothing is here is
// gathered in a huge page beside the guest's memory, and changes hands whole (UFFDIO_MOVE); what somebody waits for,
// and blocks that have pages already, are copied (UFFDIO_COPY), and made huge when all is here.
//
// A huge page that is made for one page brings in its neighbours as zeros, and what is there never faults. So blocks
// are huge only as long as nothing is known to be out of date, and by then all that has not come is dropped (R1).
class AnonymousPlacer final : public BlockPlacer {
 public:
  AnonymousPlacer(MemoryRegion& region, PageStates& states, const Clock& clock) : BlockPlacer(region, states, clock) {}

  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;

 protected:
  absl::StatusOr<bool> PrepareFaults(const UserfaultFeatures& features) override;
  absl::Status Drop(PageRun run) override;

  bool CanGather() const override { return userfault().features().move; }
  absl::Status Stage(uint64_t block, Mapping& memory) override;
  absl::Status ShowPages(PageRun run, const uint8_t* bytes) override { return ShowCopy(run, bytes); }
  uint64_t ShowBlock(uint64_t block, uint8_t* memory) override;
  Block WholeBlock() const override { return Block::kHuge; }

 private:
  // The memory of `run`, which is in one block, is there when this returns.
  absl::Status MakeRoom(uint64_t block, PageRun run);
  // Whatever counts as absent is not there, and stays so.
  absl::Status MakeExact();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_
