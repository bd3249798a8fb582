// What PendingPages knows of pages that a connection takes with it when it is lost.
#include <optional>
#include <utility>

#include "migration/sending/pending_pages.h"

namespace ferrite::migration {

void PendingPages::AskForArrival() {
  for (const auto& region : regions_) {
    region->on_way.TakeInto(region->asked_for);
  }
  stale_asked_for_.insert(stale_asked_for_.end(), stale_on_way_.begin(), stale_on_way_.end());
  stale_on_way_.clear();
}

bool PendingPages::Arrived() {
  bool something = false;
  for (const auto& region : regions_) {
    something = something || region->asked_for.FindSet(0).has_value();
    region->asked_for.ClearAll();
  }
  stale_asked_for_.clear();
  return something;
}

void PendingPages::AllArrived() {
  AskForArrival();
  (void)Arrived();
}

void PendingPages::TakeBack() {
  for (const PageRange& run : stale_on_way_) {
    stale_asked_for_.push_back(run);
  }
  stale_on_way_.clear();
  for (const PageRange& run : std::exchange(stale_asked_for_, {})) {
    // It is told again at the switchover.
    regions_[run.region]->sent.SetRange(run.first, run.count);
  }
  for (const auto& region : regions_) {
    region->asked_for.TakeInto(region->on_way);
    // What was written since it was skipped goes, and is not told: both would be in one round, on any two channels.
    const auto is_skipped = [&region](uint64_t page) {
      return region->skipped.Test(page) && !region->pending.Test(page);
    };
    for (uint64_t page = 0; page < region->on_way.pages();) {
      const std::optional<uint64_t> first = region->on_way.FindSet(page);
      if (!first.has_value()) {
        break;
      }
      const bool skipped = is_skipped(*first);
      page = *first + 1;
      while (page < region->on_way.pages() && region->on_way.Test(page) && is_skipped(page) == skipped) {
        ++page;
      }
      if (!skipped) {
        region->pending.SetRange(*first, page - *first);
        region->on_way.ClearRange(*first, page - *first);
      }
    }
  }
}

std::optional<PageRange> PendingPages::LostSkips(uint16_t index, uint64_t from) const {
  const Region& region = *regions_[index];
  const auto is_one = [&](uint64_t page) { return region.skipped.Test(page) && region.on_way.Test(page); };
  std::optional<uint64_t> first = region.on_way.FindSet(from);
  while (first.has_value() && !is_one(*first)) {
    first = region.on_way.FindSet(*first + 1);
  }
  if (!first.has_value()) {
    return std::nullopt;
  }
  uint64_t end = *first + 1;
  while (end < region.on_way.pages() && is_one(end)) {
    ++end;
  }
  return PageRange{.region = index, .first = *first, .count = end - *first};
}

}  // namespace ferrite::migration
