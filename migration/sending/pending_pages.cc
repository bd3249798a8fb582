#include "migration/sending/pending_pages.h"

#include <algorithm>
#include <array>
#include <utility>

#include "memory/guest_address.h"

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

// A block is busy when this part of its units was dirty lately: 8 pages of 2 MiB. What a guest writes at random makes
// all of its blocks busy long before each page was found dirty.
constexpr uint64_t kBusyPart = 64;

}  // namespace

PendingPages::PendingPages(std::span<const Shape> regions) {
  for (const Shape& shape : regions) {
    regions_.push_back(std::make_unique<Region>(shape));
  }
}

uint64_t PendingPages::CountPending() const {
  uint64_t count = 0;
  for (const auto& region : regions_) {
    count += region->pending.Count();
  }
  return count;
}

void PendingPages::Skip(PageRange run) {
  Region& region = *regions_[run.region];
  region.pending.ClearRange(run.first, run.count);
  region.sent.SetRange(run.first, run.count);
  region.skipped.SetRange(run.first, run.count);
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
  busy_is_old_ = true;
  return again;
}

void PendingPages::NoteBusyBlocks() {
  if (!std::exchange(busy_is_old_, false)) {
    return;
  }
  const auto is_dirty_lately = [](uint8_t heat) { return (heat & kDirtyLately) != 0; };
  for (const auto& region : regions_) {
    const uint64_t per_block = region->pages_per_block / region->pages_per_unit;
    const auto enough = static_cast<ptrdiff_t>(std::max<uint64_t>(per_block / kBusyPart, 1));
    auto first = region->heat.begin();
    for (size_t block = 0; block < region->busy.size(); ++block) {
      const auto end = first + std::min(static_cast<ptrdiff_t>(per_block), region->heat.end() - first);
      region->busy[block] = std::count_if(first, end, is_dirty_lately) >= enough;
      first = end;
    }
  }
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
    case RoundPages::kCalm:
      return !region.busy[page / region.pages_per_block] && IsIn(region, page, RoundPages::kUnsent);
  }
  return true;
}

std::optional<uint64_t> PendingPages::FindIn(const Region& region, uint64_t from, RoundPages pages) {
  std::optional<uint64_t> found = region.pending.FindSet(from);
  while (found.has_value() && !IsIn(region, *found, pages)) {
    const uint64_t block = *found / region.pages_per_block;
    const bool skips_block = pages == RoundPages::kCalm && region.busy[block];
    found = region.pending.FindSet(skips_block ? (block + 1) * region.pages_per_block : *found + 1);
  }
  return found;
}

uint64_t PendingPages::Count(RoundPages pages, uint64_t most) {
  NoteBusyBlocks();
  uint64_t count = 0;
  for (const auto& region : regions_) {
    uint64_t page = 0;
    while (count < most) {
      const auto found = FindIn(*region, page, pages);
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
    region.skipped.ClearRange(*first, count);
    return PageRange{.region = static_cast<uint16_t>(index), .first = *first, .count = count};
  }
}

void PendingPages::Rewind(RoundPages pages) {
  if (pages == RoundPages::kCalm) {
    NoteBusyBlocks();
  }
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

uint8_t PendingPages::BlockHeat(const Region& region, uint64_t first) {
  const uint64_t end = std::min(first + region.pages_per_block, region.pending.pages());
  const auto at = [&](uint64_t page) {
    return region.heat.begin() + static_cast<ptrdiff_t>(page / region.pages_per_unit);
  };
  return *std::max_element(at(first), at(end));
}

void PendingPages::OrderByHeat() {
  // Buckets by heat keep the order of addresses within one heat.
  std::array<std::vector<PageRange>, 256> buckets;
  for (size_t index = 0; index < regions_.size(); ++index) {
    const Region& region = *regions_[index];
    uint64_t page = 0;
    while (page < region.pending.pages()) {
      const auto found = region.pending.FindSet(page);
      if (!found.has_value()) {
        break;
      }
      const uint64_t per_block = region.pages_per_block;
      const uint64_t first = *found / per_block * per_block;
      const uint8_t heat = BlockHeat(region, first);
      page = first + per_block;
      while (page - first < kBlockPages && page < region.pending.pages() && BlockHeat(region, page) == heat) {
        page += per_block;
      }
      page = std::min(page, region.pending.pages());
      buckets[heat].push_back({.region = static_cast<uint16_t>(index), .first = first, .count = page - first});
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

std::optional<PageRange> PendingPages::ClaimHottest(Lease& lease, uint64_t max_pages) {
  while (true) {
    while (lease.rest.count > 0) {
      Region& region = *regions_[lease.rest.region];
      const uint64_t per_unit = region.pages_per_unit;
      const uint64_t end = lease.rest.first + lease.rest.count;
      const std::optional<uint64_t> found = region.pending.FindSet(lease.rest.first);
      if (!found.has_value() || *found >= end) {
        break;
      }
      // Whoever is asked meanwhile may have claimed the front of a unit.
      const uint64_t unit = *found / per_unit;
      const uint64_t units = std::min(std::max<uint64_t>(max_pages / per_unit, 1), end / per_unit - unit);
      const PageRange run = ClaimUnitsFrom(lease.rest.region, unit, units);
      const uint64_t next = (unit + std::max<uint64_t>(run.count / per_unit, 1)) * per_unit;
      lease.rest.first = next;
      lease.rest.count = end - next;
      if (run.count > 0) {
        return run;
      }
    }
    const size_t next = next_in_order_.fetch_add(1, std::memory_order_acq_rel);
    if (next >= order_.size()) {
      // Many ask, and none ever wraps it.
      next_in_order_.store(order_.size(), std::memory_order_release);
      return std::nullopt;
    }
    lease.rest = order_[next];
  }
}

}  // namespace ferrite::migration
