#include "migration/sending/pending_pages.h"

#include <algorithm>
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

PendingPages::PendingPages(std::span<const Shape> regions, bool can_be_lost) : can_be_lost_(can_be_lost) {
  for (const Shape& shape : regions) {
    const auto place = shape.mirrored ? claims_.begin() + static_cast<ptrdiff_t>(mirrored_++) : claims_.end();
    claims_.insert(place, static_cast<uint16_t>(regions_.size()));
    regions_.push_back(std::make_unique<Region>(shape, can_be_lost));
  }
  round_regions_ = regions_.size();
}

uint64_t PendingPages::CountPending(WhichParts parts) const {
  uint64_t count = 0;
  for (const auto& region : regions_) {
    count += Has(parts, region->mirrored) ? region->pending.Count() : 0;
  }
  return count;
}

void PendingPages::Skip(PageRange run) {
  Region& region = *regions_[run.region];
  region.pending.ClearRange(run.first, run.count);
  region.sent.SetRange(run.first, run.count);
  region.skipped.SetRange(run.first, run.count);
  if (can_be_lost_) {
    region.on_way.SetRange(run.first, run.count);
  }
}

uint64_t PendingPages::Heat(size_t index, const PageBitmap& dirty) {
  Region& region = *regions_[index];
  if (region.mirrored) {
    return 0;
  }
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
  if (pages == RoundPages::kAll) {
    return true;
  }
  const uint8_t heat = region.heat[page / region.pages_per_unit];
  switch (pages) {
    case RoundPages::kAll:
      break;
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
    while (count < most && !region->mirrored) {
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
    const uint64_t place = at >> kCursorPageBits;
    const uint64_t page = at & (Pack(1, 0) - 1);
    if (place >= round_regions_) {
      return std::nullopt;
    }
    const uint16_t index = claims_[place];
    Region& region = *regions_[index];
    const RoundPages pages = region.mirrored ? RoundPages::kAll : round_pages_;
    const std::optional<uint64_t> first = FindIn(region, page, pages);
    if (!first.has_value()) {
      cursor_.compare_exchange_strong(at, Pack(place + 1, 0), std::memory_order_acq_rel);
      continue;
    }
    const uint64_t limit = std::min(max_pages, kStride);
    const uint64_t end_of_run = region.pending.FindClear(*first).value_or(region.pending.pages());
    const uint64_t most = std::min(limit, end_of_run - *first);
    uint64_t count = 1;
    while (count < most && IsIn(region, *first + count, pages)) {
      ++count;
    }
    // Whoever moves the cursor past the run owns it.
    if (!cursor_.compare_exchange_strong(at, Pack(place, *first + count), std::memory_order_acq_rel)) {
      continue;
    }
    uint64_t resent = 0;
    for (uint64_t i = 0; i < count; ++i) {
      resent += region.sent.Test(*first + i) ? 1 : 0;
    }
    region.resent.fetch_add(resent, std::memory_order_relaxed);
    region.pending.ClearRange(*first, count);
    region.sent.SetRange(*first, count);
    region.skipped.ClearRange(*first, count);
    if (can_be_lost_) {
      region.on_way.SetRange(*first, count);
    }
    return PageRange{.region = index, .first = *first, .count = count};
  }
}

void PendingPages::Rewind(RoundPages pages, WhichParts parts) {
  if (pages == RoundPages::kCalm) {
    NoteBusyBlocks();
  }
  round_pages_ = pages;
  round_regions_ = parts == WhichParts::kMirrored ? mirrored_ : regions_.size();
  cursor_.store(0, std::memory_order_release);
}

}  // namespace ferrite::migration
