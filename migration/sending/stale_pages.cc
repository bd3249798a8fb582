// What PendingPages finds out of date at the switchover.
#include <bit>

#include "migration/sending/pending_pages.h"

namespace ferrite::migration {

void PendingPages::WidenStale(Region& region) {
  // An eighth: more would be sent again for nothing.
  constexpr uint64_t kMostAgain = 8;
  const uint64_t per_block = region.pages_per_block;
  if (per_block < 64 || per_block % 64 != 0 || per_block == region.pages_per_unit) {
    return;
  }
  for (uint64_t first = 0; first + per_block <= region.pending.pages(); first += per_block) {
    uint64_t pending = 0;
    bool sent = false;
    bool skipped = false;
    for (uint64_t word = first / 64; word < (first + per_block) / 64; ++word) {
      const uint64_t due = region.pending.Word(word);
      pending += static_cast<uint64_t>(std::popcount(due));
      sent |= region.sent.Word(word) != 0;
      skipped |= (region.skipped.Word(word) & ~due) != 0;
    }
    // Of one that was never sent nothing is there; one of which something was skipped is not read for that (R8).
    if (sent && !skipped && pending >= per_block - per_block / kMostAgain) {
      region.pending.SetRange(first, per_block);
    }
  }
}

std::vector<PageRange> PendingPages::TakeStale(bool can_be_lost) {
  std::vector<PageRange> stale;
  for (size_t index = 0; index < regions_.size(); ++index) {
    Region& region = *regions_[index];
    if (region.mirrored) {
      continue;
    }
    const uint64_t per_unit = region.pages_per_unit;
    WidenStale(region);
    const auto add = [&](uint64_t first) {
      region.sent.ClearRange(first, per_unit);
      if (!stale.empty() && stale.back().region == index && stale.back().first + stale.back().count == first) {
        stale.back().count += per_unit;
      } else {
        stale.push_back({.region = static_cast<uint16_t>(index), .first = first, .count = per_unit});
      }
    };
    if (per_unit == 1) {
      // Word by word: the guest stands still, and all of its memory may be pending.
      for (uint64_t word = 0; word < region.pending.words(); ++word) {
        for (uint64_t both = region.pending.Word(word) & region.sent.Word(word); both != 0; both &= both - 1) {
          add(word * 64 + static_cast<uint64_t>(std::countr_zero(both)));
        }
      }
      continue;
    }
    uint64_t page = 0;
    while (page < region.pending.pages()) {
      const auto found = region.pending.FindSet(page);
      if (!found.has_value()) {
        break;
      }
      const uint64_t first = *found / per_unit * per_unit;
      const auto sent = region.sent.FindSet(first);
      if (sent.has_value() && *sent < first + per_unit) {
        add(first);
      }
      page = first + per_unit;
    }
  }
  if (can_be_lost && can_be_lost_) {
    stale_on_way_.insert(stale_on_way_.end(), stale.begin(), stale.end());
  }
  return stale;
}

}  // namespace ferrite::migration
