// Puts the arriving pages of one region in place: before the switchover by filling what nobody runs on, after it
// atomically, under the eyes of the guest (docs/architecture.md).
#ifndef FERRITE_MIGRATION_PLACING_PLACER_H_
#define FERRITE_MIGRATION_PLACING_PLACER_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "memory/guest_address.h"
#include "migration/placing/page_set.h"
#include "migration/placing/page_states.h"

namespace ferrite::migration {

// 4 KiB pages of the region, [first, first + count).
struct PageRun {
  uint64_t first = 0;
  uint64_t count = 0;
  bool operator==(const PageRun&) const = default;
};

// How a page that comes after the switchover is shown.
enum class Showing {
  kAtOnce,    // somebody waits for it
  kGathered,  // with the rest of its block, where that is better
};

// A region of an IncomingPart. Its pages come in units, which have a state each: a host page of memory.
//
// Threads: the methods before the switchover are called by receiving threads for runs that do not overlap at the time,
// Discard() by one thread while nothing is received; the methods after it by any thread.
class Placer {
 public:
  // `states` has one unit for each `pages_per_unit` of `pages`, and outlives the placer.
  Placer(PageStates& states, uint64_t pages, uint64_t pages_per_unit);
  virtual ~Placer() = default;

  PageStates& states() const { return states_; }
  uint64_t pages() const { return pages_; }
  uint64_t pages_per_unit() const { return pages_per_unit_; }
  uint64_t unit_bytes() const { return pages_per_unit_ * kPageBytes; }
  // Whether `run` lies in the region.
  bool Contains(PageRun run) const;
  // Whether `run` is whole units of the region.
  bool IsWhole(PageRun run) const;

  // Takes a piece off the front of `rest`, which is not empty: what has no bytes to wait for is done piece by piece, so
  // that whoever wants it to end need not wait for all of a region.
  PageRun TakePiece(PageRun& rest) const;

  // What this side cannot have is RESOURCE_EXHAUSTED everywhere below, and where bytes are read to it. That error with
  // the region's name, and what limits this process.
  virtual absl::Status Explain(const absl::Status& error) const = 0;

  // --- Before the switchover ---

  // Where the bytes of `run` are to be read to: where they belong, if that is best. Null data when they are to be read
  // to a buffer of the caller's.
  virtual absl::StatusOr<std::span<uint8_t>> FillTarget(PageRun run) = 0;
  // `run` was read to FillTarget(), or, when that is empty, to `buffer`, from which it is put in its place here. It
  // counts as present.
  absl::Status Filled(PageRun run, const uint8_t* buffer);
  // `run` was written to its place from outside (OutsideWriters). It counts as present. INVALID_ARGUMENT for what is no
  // memory.
  absl::Status Written(PageRun run);
  // Of `run`, whose place FillTarget() was, not all came: what is there is neither what it held nor what it was to
  // hold. It becomes zero, as what did not come is: where it comes as zero, nothing is written. What counts as present
  // does so still, and comes again or is discarded, as the rest of it does.
  virtual void CutOff(PageRun run);
  // `run` is zero, whatever it held before.
  absl::Status FillZero(PageRun run);
  // `run` is lost at the source (R9), whatever came of it: until it comes after all (the source has healed it) or is
  // discarded. A unit with a page that is lost is so as a whole. INVALID_ARGUMENT for what is no memory.
  virtual absl::Status Lose(PageRun run);
  // What was received of `run` (whole units) is out of date: it is dropped, and the pages count as absent.
  absl::Status Discard(PageRun run);

  // --- After it; `run` is whole units ---

  struct Claimed {
    PageRun run;
    bool wanted = false;  // one of its units was asked for
  };
  // What comes next is in the block of `page`, from that on, and is to be kGathered. Before it is claimed.
  virtual void BeginGathering(uint64_t page);
  // Claims the longest run of units at the front of `run` that nobody has, for this caller to fill. `count` 0: the
  // first unit is somebody else's.
  Claimed Claim(PageRun run);
  // Where the bytes of a claimed run are to be read to, which the guest does not see. Null data when they must be read
  // to a buffer of the caller's. One that is kGathered is in one block.
  virtual absl::StatusOr<std::span<uint8_t>> StageTarget(PageRun run, Showing showing) = 0;
  // Shows a claimed run that was read to StageTarget(), or, when that is empty, to `buffer`; of one that was gathered,
  // now or with what else comes of its block. After an error none of it is claimed any more: what was shown is present,
  // the rest did not arrive (R1: it must not be filled again).
  virtual absl::Status Publish(PageRun run, const uint8_t* buffer) = 0;
  // No more is gathered of the block of `page`: what has come of it is shown.
  virtual absl::Status EndGathering(uint64_t page);
  // The claimed run did not arrive.
  virtual void Abandon(PageRun run);
  // `run` is zero at the source. Units that are here already stay as they are. Returns how many pages were news. One
  // that is kGathered is in one block, or is whole blocks.
  virtual absl::StatusOr<uint64_t> PublishZero(PageRun run, Showing showing) = 0;
  // `run` is lost at the source: who touches it gets a SIGBUS. Units that are here stay as they are. Returns how many
  // pages were news. INVALID_ARGUMENT for what is no memory.
  virtual absl::StatusOr<uint64_t> PublishPoison(PageRun run);

 protected:
  // The units that `run` touches.
  PageRun Units(PageRun run) const;
  // Of Filled(): puts it in its place.
  virtual absl::Status Put(PageRun run, const uint8_t* buffer);
  // Of Written(): notes it.
  virtual absl::Status NoteWritten(PageRun run);
  // Of FillZero(). The units of `run` count as present then.
  virtual absl::Status PutZero(PageRun run) = 0;
  // The pages that are lost, before the switchover.
  PageSet& lost() { return lost_; }
  // Drops what `run` holds: what is absent is never there.
  virtual absl::Status Drop(PageRun run) = 0;
  // The units that `run` touches are present, before the switchover.
  void SetPresent(PageRun run);
  // A claimed run is present from here on.
  void Finish(PageRun run);

 private:
  PageStates& states_;
  const uint64_t pages_;
  const uint64_t pages_per_unit_;
  PageSet lost_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PLACER_H_
