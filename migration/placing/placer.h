// Puts the arriving pages of one region in place: before the switchover by filling memory that nobody runs on, after it
// atomically, under the eyes of the guest (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_PLACER_H_
#define FERRITE_MIGRATION_PLACING_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/memory_region.h"
#include "migration/placing/page_states.h"
#include "migration/placing/userfault.h"

namespace ferrite::migration {

// 4 KiB pages of the region, [first, first + count).
struct PageRun {
  uint64_t first = 0;
  uint64_t count = 0;
  bool operator==(const PageRun&) const = default;
};

// Threads: the methods before the switchover are called by receiving threads for runs that do not overlap at the time,
// Discard() and Arm() by one thread while nothing is received; the methods after it by any thread.
class Placer {
 public:
  // `states` has one unit for each host page of `region`; both outlive the placer.
  Placer(MemoryRegion& region, PageStates& states);

  uint64_t pages_per_unit() const { return pages_per_unit_; }
  // Whether `run` lies in the region.
  bool Contains(PageRun run) const;
  // Whether `run` is whole host pages of the region.
  bool IsWhole(PageRun run) const;

  // Takes a piece off the front of `rest`, which is not empty: what has no bytes to wait for is done piece by piece, so
  // that whoever wants it to end need not wait for all of a region.
  PageRun TakePiece(PageRun& rest) const;

  // Memory that this side cannot have is RESOURCE_EXHAUSTED everywhere below, and where bytes are read to it. That
  // error with the region's name, and what limits this process.
  absl::Status Explain(const absl::Status& error) const;

  // --- Before the switchover ---

  // Where the bytes of `run` are to be read to: the guest's own memory, nothing is copied afterwards. It is mapped for
  // the guest here and at once (MADV_POPULATE_WRITE): neither the read nor the guest ever faults on it.
  absl::StatusOr<std::span<uint8_t>> Landing(PageRun run);
  // `run` was read to Landing(): it counts as present.
  void Landed(PageRun run);
  // `run` is zero, whatever it held before.
  absl::Status LandZero(PageRun run);
  // What was received of `run` (whole host pages) is out of date: holes are punched, and the pages count as absent.
  absl::Status Discard(PageRun run);

  // --- The switchover: faults in the region are ours from here on ---

  // FAILED_PRECONDITION when the kernel cannot do it for this backing, with what it lacks.
  static absl::Status CanArm(MemoryBacking backing, const UserfaultFeatures& features);
  absl::Status Arm(Userfault& userfault);
  // All is here, and nobody places anything any more: the kernel handles faults again, and the guest's mapping is the
  // only one.
  absl::Status Disarm();

  // --- After it; `run` is whole host pages ---

  // Claims the longest run of units at the front of `run` that nobody has, for this caller to fill. `count` 0: the
  // first unit is somebody else's.
  PageRun Claim(PageRun run);
  // Where the bytes of a claimed run are to be read to: the alias mapping, which the guest does not see. Null data when
  // they must be read to a buffer of the caller's.
  std::span<uint8_t> Window(PageRun run) const;
  // The same, for many pages: they are mapped there at once, so that the read does not fault on each.
  absl::StatusOr<std::span<uint8_t>> WideWindow(PageRun run) const;
  // Shows a claimed run that was filled through Window(), or, when that is empty, from `buffer`.
  absl::Status Show(PageRun run, const uint8_t* buffer);
  // The claimed run did not arrive.
  void Abandon(PageRun run);
  // `run` is zero at the source. Units that are here already stay as they are. Returns how many pages were news.
  absl::StatusOr<uint64_t> ShowZero(PageRun run);
  absl::StatusOr<uint64_t> ShowPoison(PageRun run);

  // A fault on a unit that is poisoned.
  absl::Status ResolvePoisoned(uint64_t unit);
  // A fault on a unit that is here: it is zero and was never mapped, or another thread has just shown it.
  absl::Status ResolvePresent(uint64_t unit);

 private:
  uint64_t unit_bytes() const { return pages_per_unit_ * kPageBytes; }
  std::span<uint8_t> Guest(PageRun run) const;
  // The units that `run` touches.
  PageRun Units(PageRun run) const;
  absl::Status Populate(std::span<uint8_t> memory) const;

  MemoryRegion& region_;
  PageStates& states_;
  const uint64_t pages_per_unit_;
  const bool has_alias_;
  Userfault* userfault_ = nullptr;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PLACER_H_
