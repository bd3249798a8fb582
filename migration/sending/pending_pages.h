// What is still to be sent: the one place where a page is claimed for sending, so that nobody sends it twice (R6).
#ifndef FERRITE_MIGRATION_SENDING_PENDING_PAGES_H_
#define FERRITE_MIGRATION_SENDING_PENDING_PAGES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"

namespace ferrite::migration {

// Which of the pending pages a round sends. Of what the guest writes the rounds know by Heat(), by units.
enum class RoundPages {
  kAll,
  kQuiet,   // all but what was written in the last round, and in one of the two before it
  kUnsent,  // what was never sent, and was not written in the last two rounds
  kCalm,    // of these, what lies in blocks of which hardly anything was written in them
};

// Which parts of a move: those that are mirrored (OutgoingPart::mirrored()), or the others, memory first among them.
enum class WhichParts { kAll, kMirrored, kOthers };
constexpr bool Has(WhichParts parts, bool mirrored) {
  return parts == WhichParts::kAll || mirrored == (parts == WhichParts::kMirrored);
}

// The pages of all regions that wait to be sent, and those that were sent. Threads: the Claim methods, from any; the
// rest while nobody claims.
class PendingPages {
 public:
  struct Shape {
    uint64_t pages = 0;  // 4 KiB
    // How many of them are sent together after the switchover (the larger of both ends' host pages).
    uint64_t pages_per_unit = 1;
    // How many are kept together then; whole units.
    uint64_t pages_per_block = 1;
    // Goes first in each round, all of it; has no heat, and never comes behind the switchover.
    bool mirrored = false;
  };
  // Of all that moves, in the order of its numbers. `can_be_lost`: TakeBack() may be called.
  explicit PendingPages(std::span<const Shape> regions, bool can_be_lost = false);

  size_t regions() const { return regions_.size(); }
  std::vector<uint64_t> region_pages() const {
    std::vector<uint64_t> pages;
    for (const auto& region : regions_) {
      pages.push_back(region->pending.pages());
    }
    return pages;
  }
  // Whether there are such pages, and one at least: what the other side names may be none.
  bool Contains(const PageRange& run) const {
    const uint64_t pages = run.region < regions_.size() ? regions_[run.region]->pending.pages() : 0;
    return run.first < pages && run.count > 0 && run.count <= pages - run.first;
  }
  PageBitmap& pending(size_t region) { return regions_[region]->pending; }
  uint64_t pages_per_unit(size_t region) const { return regions_[region]->pages_per_unit; }
  PageBitmap& sent(size_t region) { return regions_[region]->sent; }
  bool mirrored(size_t region) const { return regions_[region]->mirrored; }
  uint64_t CountPending(WhichParts parts = WhichParts::kAll) const;
  // `run` is told to be zero without being looked at (R8), and counts as sent.
  void Skip(PageRange run);

  // --- What may be lost with a connection, in the rounds ---

  // All that was claimed, skipped and found to be stale until now is about to be asked for. Not before the last one has
  // arrived.
  void AskForArrival();
  // The other side has what was asked for last, whether or not that was something; or all of it.
  bool Arrived();
  void AllArrived();
  // The connection is lost: what has not arrived is pending again, but for what was skipped and is so still, and is not
  // pending since it was written; that is told again (LostSkips()). What was to be discarded there may not be.
  void TakeBack();
  // The first run at or after `from` of what was skipped and has not arrived. Behind TakeBack(), and none of it is
  // pending then.
  std::optional<PageRange> LostSkips(uint16_t region, uint64_t from) const;

  // How often, and how late, pages were found dirty: newer rounds weigh more. Feed it each round's dirty pages. Returns
  // how many of these had been dirty after one of the two rounds before, too. Not of mirrored regions.
  uint64_t Heat(size_t region, const PageBitmap& dirty);

  // --- Rounds: single pages ---

  // Claims the next run, mirrored regions first, in address order, of at most `max_pages`; the cursor is shared by all
  // claimers and starts anew with Rewind(), which says what is claimed until the next one: all that is pending of
  // mirrored regions, and `pages` of the others, if these are among `parts` (which is not kOthers). Claimed pages count
  // as sent.
  std::optional<PageRange> ClaimNext(uint64_t max_pages);
  void Rewind(RoundPages pages = RoundPages::kAll, WhichParts parts = WhichParts::kAll);
  // How many pages ClaimNext() gave that had been sent before, since the last call.
  uint64_t TakeResent(size_t region) { return regions_[region]->resent.exchange(0); }
  // Of `pages` of the regions that are not mirrored; counts no further than `most`.
  uint64_t Count(RoundPages pages, uint64_t most);

  // --- After the switchover: whole units ---

  // A unit of which a page is pending is pending as a whole, and not sent.
  void StartUnits();
  // Prepares the order of ClaimHottest(). Others may claim what was requested meanwhile.
  void OrderByHeat();
  // Claims the unit that holds `page` and those behind it that `extra` pages allow, for all of which somebody waits, up
  // to one that was claimed before (then it is on its way, and waited for) or is not pending: of count 0 when that is
  // the first one.
  PageRange ClaimRequested(uint16_t region, uint64_t page, uint64_t extra);
  // Whether `page` was asked for before, by that name: nothing of it had come when it was asked for again.
  bool NoteAsked(uint16_t region, uint64_t page) { return regions_[region]->asked.Set(page); }
  // Then: the unit that holds it, where it was claimed, and not for a request. It goes a second time, while the channel
  // that has it may have stalled (R6). Count 0: it went, or goes anyway.
  PageRange ClaimAgain(uint16_t region, uint64_t page);
  // The same as ClaimRequested(), of pages that nobody waits for.
  PageRange ClaimNear(uint16_t region, uint64_t page, uint64_t extra);
  // What one claimer has to itself, but for what is requested: a block, or neighbours of one heat as large as that.
  struct Lease {
    size_t owner = 0;  // below kMaxOwners, another one for each claimer
    PageRange rest;
  };
  static constexpr size_t kMaxOwners = 254;
  // Claims the next run of what `lease` has, or of what is next in order of heat, then of address. A block is as hot as
  // its hottest unit.
  std::optional<PageRange> ClaimHottest(Lease& lease, uint64_t max_pages);
  // The claimer `owner` claims no more. What it had leased is leased anew, before all else: of what it had claimed,
  // that which is among `missing`, in whole units; that may come in pieces, and all is leased with the `last` one.
  // Others may claim meanwhile. How many pages are pending again.
  uint64_t TakeBackFrom(size_t owner, std::span<const PageRange> missing, bool last = true);
  // Claims a unit of what was taken back for which somebody waits (R5).
  std::optional<PageRange> ClaimAwaited(size_t owner);

  // Discard ranges of the switchover: units that were sent and are pending again; also what else was sent of a block of
  // which most is pending, which becomes pending, too: it comes whole. They count as not sent afterwards.
  // `can_be_lost`: what is told of them, with a connection.
  std::vector<PageRange> TakeStale(bool can_be_lost = false);

 private:
  struct Region {
    Region(const Shape& shape, bool can_be_lost)
        : pending(shape.pages),
          sent(shape.pages),
          skipped(shape.pages),
          pages_per_unit(shape.pages_per_unit),
          pages_per_block(shape.pages_per_block),
          mirrored(shape.mirrored),
          on_way(can_be_lost ? shape.pages : 0),
          asked_for(can_be_lost ? shape.pages : 0),
          heat(shape.mirrored ? 0 : shape.pages / shape.pages_per_unit),
          busy(shape.mirrored ? 0 : (shape.pages + shape.pages_per_block - 1) / shape.pages_per_block),
          requested(shape.mirrored ? 0 : shape.pages),
          awaited(shape.mirrored ? 0 : shape.pages),
          asked(shape.mirrored ? 0 : shape.pages),
          owners(std::make_unique<std::atomic<uint8_t>[]>(busy.size())) {}
    PageBitmap pending;
    PageBitmap sent;
    PageBitmap skipped;  // and never sent since
    const uint64_t pages_per_unit;
    const uint64_t pages_per_block;
    const bool mirrored;
    // Where they can be lost: claimed since it was last asked for, and before.
    PageBitmap on_way;
    PageBitmap asked_for;
    std::vector<uint8_t> heat;  // per unit
    std::vector<bool> busy;     // per block: what RoundPages::kCalm leaves out
    PageBitmap requested;       // claimed for a request, and not as part of a lease
    PageBitmap awaited;         // requested when it was on its way: the first pages of units
    PageBitmap asked;           // by the names of requests
    // Per block: who has leased it, counted from 1.
    const std::unique_ptr<std::atomic<uint8_t>[]> owners;
    std::atomic<uint64_t> resent{0};
  };

  static bool IsIn(const Region& region, uint64_t page, RoundPages pages);
  // The first pending page of `pages` at or after `from`.
  static std::optional<uint64_t> FindIn(const Region& region, uint64_t from, RoundPages pages);
  // What Heat() changed, when somebody asks for it: not while the guest stands still.
  void NoteBusyBlocks();
  // Of the block that begins with the page `first`.
  static uint8_t BlockHeat(const Region& region, uint64_t first);
  // Makes blocks pending as a whole that mostly are, but for those of which something was skipped.
  static void WidenStale(Region& region);
  // Claims one unit; true for one caller only.
  bool ClaimUnit(Region& region, uint64_t unit);
  PageRange ClaimUnitsFrom(uint16_t region, uint64_t unit, uint64_t max_units);
  // What is leased next; of no pages when there is nothing.
  PageRange NextInOrder();
  // Makes a unit pending that nobody else claims. The pages of it.
  uint64_t Return(uint16_t region, uint64_t first) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What TakeBackFrom() says of what was claimed by ClaimAwaited().
  uint64_t TakeBackAwaitedFrom(size_t owner, std::span<const PageRange> missing, bool last)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::vector<std::unique_ptr<Region>> regions_;
  std::vector<uint16_t> claims_;  // regions in the order of ClaimNext(): the mirrored ones first
  size_t mirrored_ = 0;           // how many these are
  // Place in `claims_` and page of ClaimNext(), packed so that claimers advance it with one exchange.
  std::atomic<uint64_t> cursor_{0};
  RoundPages round_pages_ = RoundPages::kAll;
  size_t round_regions_ = 0;  // the first ones of `claims_` that are claimed
  bool busy_is_old_ = false;
  const bool can_be_lost_;
  std::vector<PageRange> stale_on_way_;  // that the other side may not have discarded
  std::vector<PageRange> stale_asked_for_;
  std::vector<PageRange> order_;  // what is leased: blocks, of small ones several; hottest first
  std::atomic<size_t> next_in_order_{0};
  absl::Mutex mutex_;                                        // shared by who claims what is requested
  std::vector<PageRange> returned_ ABSL_GUARDED_BY(mutex_);  // what is leased before it
  std::atomic<bool> has_returned_{false};
  std::vector<PageRange> awaited_ ABSL_GUARDED_BY(mutex_);  // units, for ClaimAwaited()
  std::atomic<bool> has_awaited_{false};
  struct Claimed {
    size_t owner;
    PageRange unit;
  };
  std::vector<Claimed> claimed_awaited_ ABSL_GUARDED_BY(mutex_);  // by that
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_PENDING_PAGES_H_
