// What the destination knows of all that comes, region by region.
#ifndef FERRITE_MIGRATION_PLACING_PLACEMENT_H_
#define FERRITE_MIGRATION_PLACING_PLACEMENT_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migration/placing/doubtful_pages.h"
#include "migration/placing/incoming_part.h"
#include "migration/placing/page_states.h"
#include "migration/placing/placer.h"

namespace ferrite::migration {

// The regions of all parts, numbered one after the other as in MACHINE; shared by all channels and the fault threads.
// Threads: any.
class Placement {
 public:
  // The parts outlive it.
  explicit Placement(std::span<IncomingPart* const> parts)
      : placers_(PlacersOf(parts)), mirrored_(MirroredOf(parts)), doubtful_(PagesOf(placers_)) {}

  size_t regions() const { return placers_.size(); }
  Placer& placer(size_t region) const { return *placers_[region]; }
  // Whether its part is: nothing of it comes behind the switchover.
  bool mirrored(size_t region) const { return mirrored_[region]; }
  DoubtfulPages& doubtful() { return doubtful_; }
  PageStates& states(size_t region) const { return placers_[region]->states(); }
  // Whether who touches that 4 KiB page does not wait for it.
  bool IsHere(size_t region, uint64_t page) const {
    const PageState state = states(region).Get(page / placers_[region]->pages_per_unit());
    return state == PageState::kPresent || state == PageState::kPoisoned;
  }
  // `pages` and what belongs to the same units.
  PageRun WholeUnits(size_t region, PageRun pages) const {
    const uint64_t per_unit = placers_[region]->pages_per_unit();
    const uint64_t first = pages.first / per_unit * per_unit;
    const uint64_t end = (pages.first + pages.count + per_unit - 1) / per_unit * per_unit;
    return {.first = first, .count = end - first};
  }
  // 4 KiB pages of all regions.
  uint64_t pages() const {
    uint64_t pages = 0;
    for (const Placer* placer : placers_) {
      pages += placer->pages();
    }
    return pages;
  }
  // Units that are not here.
  uint64_t missing() const {
    uint64_t missing = 0;
    for (const Placer* placer : placers_) {
      missing += placer->states().missing();
    }
    return missing;
  }

 private:
  static std::vector<Placer*> PlacersOf(std::span<IncomingPart* const> parts) {
    std::vector<Placer*> placers;
    for (IncomingPart* part : parts) {
      for (size_t i = 0; i < part->regions(); ++i) {
        placers.push_back(&part->placer(i));
      }
    }
    return placers;
  }
  static std::vector<bool> MirroredOf(std::span<IncomingPart* const> parts) {
    std::vector<bool> mirrored;
    for (const IncomingPart* part : parts) {
      mirrored.resize(mirrored.size() + part->regions(), part->mirrored());
    }
    return mirrored;
  }
  static std::vector<uint64_t> PagesOf(std::span<Placer* const> placers) {
    std::vector<uint64_t> pages;
    for (const Placer* placer : placers) {
      pages.push_back(placer->pages());
    }
    return pages;
  }

  const std::vector<Placer*> placers_;
  const std::vector<bool> mirrored_;  // likewise
  DoubtfulPages doubtful_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PLACEMENT_H_
