// Puts the arriving pages of a region of guest memory in place (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_
#define FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "memory/memory_region.h"
#include "migration/channel/outside_writers.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"
#include "migration/placing/userfault.h"

namespace ferrite::migration {

// What all kinds of memory have in common. Memory that this side cannot have is RESOURCE_EXHAUSTED. Threads: as Placer;
// Arm(), Disarm() and Compact() by one thread while nothing is received.
class MemoryPlacer : public Placer {
 public:
  // The one for memory of `region`'s kind. `states` has one unit for each host page of `region`; all outlive the
  // placer.
  static std::unique_ptr<MemoryPlacer> Create(MemoryRegion& region, PageStates& states, const Clock& clock);

  absl::Status Explain(const absl::Status& error) const override;

  // Who else writes to it, before the first page comes; `region` is its number for them. While they may, nothing is
  // given back to the host or replaced, and zeros are written (R8). Before anything is, and before Arm(), they are
  // ended. They outlive the placer.
  void SetOutsideWriters(OutsideWriters* writers, size_t region) {
    writers_ = writers;
    writers_region_ = region;
  }
  void CutOff(PageRun run) override;
  absl::Status Lose(PageRun run) override;

  // --- The switchover: faults in the region are ours from here on ---

  // FAILED_PRECONDITION when the kernel cannot do it for this backing, with what it lacks.
  static absl::Status CanArm(MemoryBacking backing, const UserfaultFeatures& features);
  absl::Status Arm(Userfault& userfault);
  // Behind Arm(), or in its place where nothing is missing: what is poisoned is so for who touches it, and listed in
  // the region. `userfault` may be null.
  absl::Status ShowPoisoned(Userfault* userfault);
  // All is here, and nobody places anything any more: the kernel handles faults again, and the guest's mapping is the
  // only one.
  virtual absl::Status Disarm();

  // --- After it ---

  absl::StatusOr<uint64_t> PublishZero(PageRun run, Showing showing) override;
  absl::StatusOr<uint64_t> PublishPoison(PageRun run) override;

  // A fault on a unit that is being received: it is shown as soon as that can be. True if it is present now.
  virtual absl::StatusOr<bool> ShowWanted(uint64_t unit);
  // A fault on a unit that is poisoned.
  absl::Status ResolvePoisoned(uint64_t unit);
  // A fault on a unit that is here: it is zero and was never mapped, or another thread has just shown it.
  virtual absl::Status ResolvePresent(uint64_t unit);

  // Pages that changed hands with their block.
  virtual uint64_t moved_pages() const { return 0; }

  // After Disarm(), while the guest runs: memory that is to have huge pages and came in pieces gets them. Until `stop`
  // returns true. Returns how many blocks became huge.
  virtual uint64_t Compact(absl::FunctionRef<bool()> stop);

 protected:
  MemoryPlacer(MemoryRegion& region, PageStates& states);

  // Before the kernel tells of faults: who touches what counts as absent will wait. Whether it is to tell of pages that
  // are in the file, too, and only not mapped.
  virtual absl::StatusOr<bool> PrepareFaults(const UserfaultFeatures& features);
  absl::Status NoteWritten(PageRun) override { return absl::OkStatus(); }
  // Punches holes.
  absl::Status Drop(PageRun run) override;

  MemoryRegion& region() const { return region_; }
  // Between Arm() and Disarm().
  Userfault& userfault() const { return *userfault_; }
  // The guest's mapping of `run`.
  std::span<uint8_t> Guest(PageRun run) const;
  // Has `memory` mapped at once (MADV_POPULATE_WRITE): neither a read to it nor the guest faults on each page.
  absl::Status Populate(std::span<uint8_t> memory) const;
  // Writes zeroes to `run`, which is mapped. The hardware may have lost a page of it.
  absl::Status Clear(PageRun run) const;
  // pwrite(2) of `bytes` to where `run` belongs, past all mappings.
  absl::Status Write(PageRun run, const uint8_t* bytes) const;
  // Ends a mapping of memory that is shared, from which nothing goes.
  static void Forget(Mapping mapping);
  bool MayBeWritten() const { return writers_ != nullptr && writers_->may_write(); }
  // PutZero() of memory that may be written from outside: what is here, or may be by now, is written over.
  absl::Status ClearZero(PageRun run);
  // PutZero() of memory whose units are 4 KiB: what is here becomes a hole.
  absl::Status PunchZero(PageRun run);
  // The claimed `run` was shown with `status`, `placed` bytes of it: these are present, the rest is abandoned.
  absl::Status Shown(PageRun run, uint64_t placed, const absl::Status& status);
  // Makes a unit of which nothing is here poisoned, and lists it. `userfault` has it registered; null: nobody has.
  absl::Status MakePoisoned(uint64_t unit, Userfault* userfault);
  // Shows `run` as a copy of `bytes`.
  absl::Status ShowCopy(PageRun run, const uint8_t* bytes);

 private:
  void EndOutsideWriters();

  MemoryRegion& region_;
  Userfault* userfault_ = nullptr;
  OutsideWriters* writers_ = nullptr;
  size_t writers_region_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_MEMORY_PLACER_H_
