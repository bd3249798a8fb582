#include "migration/sending/pending_pages.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace ferrite::migration {
namespace {

// Cursor: region in the upper 16 bits, page below.
constexpr uint64_t kCursorPageBits = 48;
constexpr uint64_t Pack(uint64_t region, uint64_t page) { return region << kCursorPageBits | page; }

// Pages that one claimer scans before another one starts behind it. Claims of different threads are that far apart, so
// that both send long runs.
constexpr uint64_t kStride = 4096;

// Heat has a bit for each round: whether the unit was dirty after it. That of the last one is on top.
constexpr uint8_t kDirtyNow = 0x80;
constexpr uint8_t kDirtyBefore = 0x60;  // after one of the two rounds before
constexpr uint8_t kDirtyLately = 0xc0;  // after one of the last two

}  // namespace

PendingPages::PendingPages(std::span<const Shape> regions) {
  for (const Shape& shape : regions) {
    regions_.push_back(std::make_unique<Region>(shape.pages, shape.pages_per_unit));
  }
}

uint64_t PendingPages::CountPending() const {
  uint64_t count = 0;
  for (const auto& region : regions_) {
    count += region->pending.Count();
  }
  return count;
}

uint64_t PendingPages::Heat(size_t index, const PageBitmap& dirty) {
  Region& region = *regions_[index];
  for (uint8_t& heat : region.heat) {
    heat /= 2;
  }
  uint64_t again = 0;
  uint64_t page = 0;
  while (const auto found = dirty.FindSet(page)) {
    uint8_t& heat = region.heat[*found / region.pages_per_unit];
    again += (heat & kDirtyBefore) != 0 ? 1 : 0;
    heat |= kDirtyNow;
    page = *found + 1;
  }
  return again;
}

bool PendingPages::IsIn(const Region& region, uint64_t page, RoundPages pages) {
  const uint8_t heat = region.heat[page / region.pages_per_unit];
  switch (pages) {
    case RoundPages::kAll:
      return true;
    case RoundPages::kQuiet:
      return (heat & kDirtyNow) == 0 || (heat & kDirtyBefore) == 0;
    case RoundPages::kUnsent:
      return (heat & kDirtyLately) == 0 && !region.sent.Test(page);
  }
  return true;
}

std::optional<uint64_t> PendingPages::FindIn(const Region& region, uint64_t from, RoundPages pages) {
  std::optional<uint64_t> found = region.pending.FindSet(from);
  while (found.has_value() && !IsIn(region, *found, pages)) {
    found = region.pending.FindSet(*found + 1);
  }
  return found;
}

uint64_t PendingPages::CountUnsent(uint64_t most) const {
  uint64_t count = 0;
  for (const auto& region : regions_) {
    uint64_t page = 0;
    while (count < most) {
      const auto found = FindIn(*region, page, RoundPages::kUnsent);
      if (!found.has_value()) {
        break;
      }
      ++count;
      page = *found + 1;
    }
  }
  return count;
}

std::optional<PageRange> PendingPages::ClaimNext(uint64_t max_pages) {
  while (true) {
    uint64_t at = cursor_.load(std::memory_order_acquire);
    const uint64_t index = at >> kCursorPageBits;
    const uint64_t page = at & (Pack(1, 0) - 1);
    if (index >= regions_.size()) {
      return std::nullopt;
    }
    Region& region = *regions_[index];
    const std::optional<uint64_t> first = FindIn(region, page, round_pages_);
    if (!first.has_value()) {
      cursor_.compare_exchange_strong(at, Pack(index + 1, 0), std::memory_order_acq_rel);
      continue;
    }
    const uint64_t limit = std::min(max_pages, kStride);
    const uint64_t end_of_run = region.pending.FindClear(*first).value_or(region.pending.pages());
    const uint64_t most = std::min(limit, end_of_run - *first);
    uint64_t count = 1;
    while (count < most && IsIn(region, *first + count, round_pages_)) {
      ++count;
    }
    // Whoever moves the cursor past the run owns it.
    if (!cursor_.compare_exchange_strong(at, Pack(index, *first + count), std::memory_order_acq_rel)) {
      continue;
    }
    uint64_t resent = 0;
    for (uint64_t i = 0; i < count; ++i) {
      resent += region.sent.Test(*first + i) ? 1 : 0;
    }
    resent_.fetch_add(resent, std::memory_order_relaxed);
    region.pending.ClearRange(*first, count);
    region.sent.SetRange(*first, count);
    return PageRange{.region = static_cast<uint16_t>(index), .first = *first, .count = count};
  }
}

void PendingPages::Rewind(RoundPages pages) {
  round_pages_ = pages;
  cursor_.store(0, std::memory_order_release);
}

void PendingPages::StartUnits() {
  for (const auto& region : regions_) {
    const uint64_t per_unit = region->pages_per_unit;
    if (per_unit == 1) {
      continue;
    }
    uint64_t page = 0;
    while (page < region->pending.pages()) {
      const auto found = region->pending.FindSet(page);
      if (!found.has_value()) {
        break;
      }
      const uint64_t unit = *found / per_unit;
      region->pending.SetRange(unit * per_unit, per_unit);
      page = (unit + 1) * per_unit;
    }
  }
}

void PendingPages::OrderByHeat() {
  // Buckets by heat keep the order of addresses within one heat.
  std::array<std::vector<PageRange>, 256> buckets;
  for (size_t index = 0; index < regions_.size(); ++index) {
    Region& region = *regions_[index];
    const uint64_t per_unit = region.pages_per_unit;
    uint64_t page = 0;
    while (page < region.pending.pages()) {
      const auto found = region.pending.FindSet(page);
      if (!found.has_value()) {
        break;
      }
      page = region.pending.FindClear(*found).value_or(region.pending.pages());
      // Whoever is asked meanwhile may claim the front of a unit: then the rest of it is found here, and not claimed
      // twice.
      const uint64_t end = (page + per_unit - 1) / per_unit;
      for (uint64_t unit = *found / per_unit; unit < end;) {
        // Neighbours of the same heat become one entry.
        const uint8_t heat = region.heat[unit];
        uint64_t next = unit + 1;
        while (next < end && region.heat[next] == heat) {
          ++next;
        }
        buckets[heat].push_back({.region = static_cast<uint16_t>(index), .first = unit, .count = next - unit});
        unit = next;
      }
    }
  }
  order_.clear();
  for (auto bucket = buckets.rbegin(); bucket != buckets.rend(); ++bucket) {
    order_.insert(order_.end(), bucket->begin(), bucket->end());
  }
  next_in_order_.store(0, std::memory_order_release);
}

bool PendingPages::ClaimUnit(Region& region, uint64_t unit) {
  const uint64_t first = unit * region.pages_per_unit;
  // All bits of a pending unit are set; the first one is the token.
  if (!region.pending.Clear(first)) {
    return false;
  }
  if (region.pages_per_unit > 1) {
    region.pending.ClearRange(first + 1, region.pages_per_unit - 1);
    region.sent.SetRange(first, region.pages_per_unit);
  } else {
    region.sent.Set(first);
  }
  return true;
}

PageRange PendingPages::ClaimUnitsFrom(uint16_t index, uint64_t unit, uint64_t max_units) {
  Region& region = *regions_[index];
  const uint64_t units = region.pending.pages() / region.pages_per_unit;
  uint64_t claimed = 0;
  while (claimed < max_units && unit + claimed < units && ClaimUnit(region, unit + claimed)) {
    ++claimed;
  }
  return {.region = index, .first = unit * region.pages_per_unit, .count = claimed * region.pages_per_unit};
}

PageRange PendingPages::ClaimRequested(uint16_t region, uint64_t page, uint64_t extra) {
  const uint64_t per_unit = regions_[region]->pages_per_unit;
  return ClaimUnitsFrom(region, page / per_unit, 1 + extra / per_unit);
}

std::optional<PageRange> PendingPages::ClaimHottest(uint64_t max_pages) {
  while (true) {
    const size_t next = next_in_order_.load(std::memory_order_acquire);
    if (next >= order_.size()) {
      return std::nullopt;
    }
    const PageRange& entry = order_[next];
    Region& region = *regions_[entry.region];
    const uint64_t per_unit = region.pages_per_unit;
    const uint64_t first_page = entry.first * per_unit;
    const uint64_t end_page = first_page + entry.count * per_unit;
    const std::optional<uint64_t> found = region.pending.FindSet(first_page);
    if (!found.has_value() || *found >= end_page) {
      size_t expected = next;
      next_in_order_.compare_exchange_strong(expected, next + 1, std::memory_order_acq_rel);
      continue;
    }
    const uint64_t unit = *found / per_unit;
    const uint64_t units_left = entry.first + entry.count - unit;
    const PageRange run =
        ClaimUnitsFrom(entry.region, unit, std::min(std::max<uint64_t>(max_pages / per_unit, 1), units_left));
    if (run.count > 0) {
      return run;
    }
  }
}

std::vector<PageRange> PendingPages::TakeStale() {
  std::vector<PageRange> stale;
  for (size_t index = 0; index < regions_.size(); ++index) {
    Region& region = *regions_[index];
    const uint64_t per_unit = region.pages_per_unit;
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
  return stale;
}

}  // namespace ferrite::migration
