// Puts arriving pages into private anonymous memory, with transparent huge pages where it is to have them.
#ifndef FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_
#define FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/clock.h"
#include "migration/placing/block_gatherer.h"
#include "migration/placing/huge_cost.h"
#include "migration/placing/memory_placer.h"

namespace ferrite::migration {

// Before the switchover everything is read to where it belongs. After it a block (2 MiB) of which nothing is here is
// gathered in a huge page beside the guest's memory, and changes hands whole (UFFDIO_MOVE); what somebody waits for,
// and blocks that have pages already, are copied (UFFDIO_COPY), and made huge when all is here.
//
// A huge page that is made for one page brings in its neighbours as zeros, and what is there never faults. So blocks
// are huge only as long as nothing is known to be out of date, and by then all that has not come is dropped (R1).
class AnonymousPlacer final : public MemoryPlacer, private BlockGatherer::Shower {
 public:
  AnonymousPlacer(MemoryRegion& region, PageStates& states, const Clock& clock);

  absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) override;
  absl::Status FillZero(PageRun run) override;

  absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun run, Showing showing) override;
  absl::Status Publish(PageRun run, const uint8_t* buffer) override;
  absl::Status EndGathering(uint64_t page) override;
  void Abandon(PageRun run) override;
  absl::StatusOr<uint64_t> PublishZero(PageRun run, Showing showing) override;
  absl::StatusOr<bool> ShowWanted(uint64_t page) override;

  absl::Status Disarm() override;
  uint64_t Compact(absl::FunctionRef<bool()> stop) override;

  uint64_t moved_pages() const override { return kBlockPages * moved_blocks_.load(std::memory_order_relaxed); }

 protected:
  absl::Status MakeExact() override;
  absl::Status Drop(PageRun run) override;

 private:
  // What a block of the guest's memory is.
  enum class Block : uint8_t {
    kUntouched,  // nothing was put there
    kHuge,       // one huge page, if the kernel had one
    kSmall,      // in pieces
  };

  uint64_t BlockOf(uint64_t page) const { return page / kBlockPages; }
  bool IsWholeBlock(uint64_t block) const { return (block + 1) * kBlockPages <= pages(); }
  // Turns huge pages on or off for what is touched from here on.
  absl::Status AllowHuge(bool on);
  // Calls `visit` with the part of `run` that is in each block.
  absl::Status InBlocks(PageRun run, absl::FunctionRef<absl::Status(uint64_t block, PageRun piece)> visit);
  // The memory of `run`, which is in one block, is there when this returns.
  absl::Status MakeRoom(uint64_t block, PageRun run);
  absl::Status FillZeroIn(uint64_t block, PageRun run);

  void NoteSmall(PageRun run);
  // `again` becomes true when another pass may do more.
  uint64_t CompactOnce(absl::FunctionRef<bool()> stop, bool& again);
  absl::Status ShowZero(const Claimed& claimed);
  absl::Status Copy(PageRun run, const uint8_t* bytes) override;
  uint64_t Move(uint64_t block, uint8_t* memory) override;

  const Clock& clock_;
  const bool wants_huge_;  // its owner does
  const bool huge_;        // and its blocks can be that
  const std::unique_ptr<std::atomic<Block>[]> blocks_;
  HugeCost fill_cost_;
  BlockGatherer gatherer_;
  std::atomic<uint64_t> moved_blocks_{0};
  bool exact_ = false;  // what counts as absent is not there, and stays so
  absl::Mutex mutex_;
  bool allowed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_ANONYMOUS_PLACER_H_
