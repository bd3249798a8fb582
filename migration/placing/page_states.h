// What the destination knows of each host page of a region (docs/architecture.md): the one truth about whether a page
// is there.
#ifndef FERRITE_MIGRATION_PLACING_PAGE_STATES_H_
#define FERRITE_MIGRATION_PLACING_PAGE_STATES_H_

#include <atomic>
#include <cstdint>
#include <memory>

namespace ferrite::migration {

enum class PageState : uint8_t {
  kAbsent,     // not here, not asked for
  kRequested,  // a fault asked for it
  kReceiving,  // a thread is reading it from its connection, or keeps it until it can be shown
  kAwaited,    // the same, and a fault waits for it
  kPresent,    // here, or known to be zero
  kPoisoned,   // lost at the source (R9)
};

// Allowed changes, each one compare-and-swap:
//
//   absent → requested → receiving → present     receiving → requested   (its connection broke)
//   absent → receiving → awaited → present       awaited   → requested
//   receiving, awaited → poisoned                present, poisoned → absent   (discard; the guest does not run yet)
//   absent → present                             (it came before the switchover)
//   absent, present → poisoned                   (lost at the source before the switchover, whatever came of it)
//
// Threads: any; unit `i` is host page i of the region.
class PageStates {
 public:
  explicit PageStates(uint64_t units);

  uint64_t units() const { return units_; }
  PageState Get(uint64_t unit) const { return states_[unit].load(std::memory_order_acquire); }

  // absent → requested. True for the one caller who is to ask the source (R5).
  bool Request(uint64_t unit);
  // absent or requested → receiving. True for the one caller who may fill and show the page (R1). `wanted` becomes true
  // when it was requested, and is left alone otherwise; it may be null.
  bool Claim(uint64_t unit, bool* wanted = nullptr);
  // receiving → awaited. True when it is that, too when it was.
  bool Await(uint64_t unit);
  // receiving or awaited → present, once the page is in place.
  void Finish(uint64_t unit);
  // receiving or awaited → requested: it did not arrive after all, and is asked for again in recovery.
  void Abandon(uint64_t unit);
  // receiving or awaited → poisoned, once whoever touches it finds it so.
  void FinishPoisoned(uint64_t unit);
  // present or poisoned → absent, before the switchover. False when it was neither.
  bool Discard(uint64_t unit);
  // absent or present → present: what arrives before the switchover is simply there.
  void SetPresent(uint64_t unit);
  // absent or present → poisoned, at the switchover.
  void Lose(uint64_t unit);

  // How many are neither present nor poisoned. The one who brings it to 0 ends the move.
  uint64_t missing() const { return missing_.load(std::memory_order_acquire); }

 private:
  bool Change(uint64_t unit, PageState from, PageState to);
  // receiving or awaited → `to`.
  void Leave(uint64_t unit, PageState to);

  const uint64_t units_;
  const std::unique_ptr<std::atomic<PageState>[]> states_;
  std::atomic<uint64_t> missing_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PAGE_STATES_H_
