// Puts arriving pages into memory of 4 KiB pages that the kernel may have huge pages of 2 MiB for.
#ifndef FERRITE_MIGRATION_PLACING_BLOCK_PLACER_H_
#define FERRITE_MIGRATION_PLACING_BLOCK_PLACER_H_

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
#include "base/mapping.h"
#include "migration/placing/block_gatherer.h"
#include "migration/placing/huge_cost.h"
#include "migration/placing/memory_placer.h"

namespace ferrite::migration {

// What anonymous memory and a memfd have in common: which blocks (2 MiB) are huge, and that one of which nothing is
// here behind the switchover is gathered, and shown whole.
class BlockPlacer : public MemoryPlacer, private BlockGatherer::Shower {
 public:
  absl::Status PutZero(PageRun run) override;
  absl::Status NoteWritten(PageRun run) override;

  void BeginGathering(uint64_t page) override;
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
  // What a block of the guest's memory is. Allowed changes, besides one to itself:
  //
  //   untouched → huge, small     (something was put there; the first of several channels makes it huge)
  //   huge → small                (broken up, or the kernel had no huge page for it)
  //   huge, small → untouched     (what was there is gone, before the switchover)
  //   small → huge                (made huge again, when all is here)
  enum class Block : uint8_t {
    kUntouched,  // nothing was put there
    kHuge,       // one huge page, if the kernel had one
    kSmall,      // in pieces, or mapped in pieces
  };

  BlockPlacer(MemoryRegion& region, PageStates& states, const Clock& clock);

  // Whether blocks can be gathered, which the kernel must know how to show. Behind Arm().
  virtual bool CanGather() const = 0;
  // BlockGatherer::Shower's. What is shown is noted here.
  absl::Status Stage(uint64_t block, Mapping& memory) override = 0;
  virtual absl::Status ShowPages(PageRun run, const uint8_t* bytes) = 0;
  // Pages from the front on.
  virtual uint64_t ShowBlock(uint64_t block, uint8_t* memory) = 0;
  // What a block is when it was shown whole.
  virtual Block WholeBlock() const = 0;

  uint64_t BlockOf(uint64_t page) const { return page / kBlockPages; }
  bool IsWholeBlock(uint64_t block) const { return (block + 1) * kBlockPages <= pages(); }
  // The last one may be none.
  uint64_t blocks() const { return (pages() + kBlockPages - 1) / kBlockPages; }
  Block Get(uint64_t block) const { return blocks_[block].load(std::memory_order_relaxed); }
  void Set(uint64_t block, Block is) { blocks_[block].store(is, std::memory_order_relaxed); }
  // Calls `visit` with the part of `run` that is in each block.
  absl::Status InBlocks(PageRun run, absl::FunctionRef<absl::Status(uint64_t block, PageRun piece)> visit);

  // Turns huge pages on or off for what is touched from here on.
  absl::Status AllowHuge(bool on);
  // Before the switchover: makes a block huge of which nothing is here, where that is worth it. False: it is in pieces.
  absl::StatusOr<bool> MakeHuge(uint64_t block);
  HugeCost& fill_cost() { return fill_cost_; }

  const Clock& clock() const { return clock_; }
  // Its blocks can be huge.
  bool huge() const { return huge_; }
  // No block becomes huge any more.
  void KeepSmall() { exact_ = true; }
  bool exact() const { return exact_; }

 private:
  absl::Status FillZeroIn(uint64_t block, PageRun run);
  absl::Status ShowZero(const Claimed& claimed);
  absl::Status Copy(PageRun run, const uint8_t* bytes) final;
  uint64_t Move(uint64_t block, uint8_t* memory) final;
  // Whether a page of it was lost at the source (R9).
  bool IsPoisoned(uint64_t block) const;
  // Blocks that were to be huge, and of which the kernel had none to give, are in pieces like others.
  void NoteFallbacks();
  // `again` becomes true when another pass may do more.
  uint64_t CompactOnce(absl::FunctionRef<bool()> stop, bool& again);

  const Clock& clock_;
  const bool wants_huge_;  // its owner does
  const bool huge_;
  const std::unique_ptr<std::atomic<Block>[]> blocks_;
  HugeCost fill_cost_;
  BlockGatherer gatherer_;
  std::atomic<uint64_t> moved_blocks_{0};
  bool exact_ = false;
  absl::Mutex mutex_;
  bool allowed_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_BLOCK_PLACER_H_
