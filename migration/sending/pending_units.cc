// What PendingPages does behind the switchover.
#include <algorithm>
#include <array>

#include "memory/guest_address.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {

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
    uint64_t page = region.mirrored ? region.pending.pages() : 0;
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
  // Before the claim: who takes it back meanwhile sees it.
  const uint64_t per_unit = regions_[region]->pages_per_unit;
  const uint64_t first = page / per_unit * per_unit;
  const uint64_t end = std::min(first + (1 + extra / per_unit) * per_unit, regions_[region]->pending.pages());
  for (uint64_t unit = first; unit < end; unit += per_unit) {
    regions_[region]->awaited.Set(unit);
  }
  return ClaimNear(region, page, extra);
}

PageRange PendingPages::ClaimNear(uint16_t region, uint64_t page, uint64_t extra) {
  const uint64_t per_unit = regions_[region]->pages_per_unit;
  // What is claimed here is nobody else's to take back, from one instant on.
  const absl::ReaderMutexLock lock(&mutex_);
  const PageRange run = ClaimUnitsFrom(region, page / per_unit, 1 + extra / per_unit);
  regions_[region]->requested.SetRange(run.first, run.count);
  return run;
}

PageRange PendingPages::ClaimAgain(uint16_t index, uint64_t page) {
  Region& region = *regions_[index];
  const uint64_t per_unit = region.pages_per_unit;
  const uint64_t first = page / per_unit * per_unit;
  // What is lost with the channel meanwhile goes over another one.
  const absl::ReaderMutexLock lock(&mutex_);
  if (region.pending.Test(first) || region.requested.Set(first)) {
    return {.region = index, .first = first};
  }
  region.requested.SetRange(first, per_unit);
  return {.region = index, .first = first, .count = per_unit};
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
    lease.rest = NextInOrder();
    if (lease.rest.count == 0) {
      return std::nullopt;
    }
    Region& region = *regions_[lease.rest.region];
    const uint64_t end = lease.rest.first + lease.rest.count;
    for (uint64_t block = lease.rest.first / region.pages_per_block; block * region.pages_per_block < end; ++block) {
      region.owners[block].store(static_cast<uint8_t>(lease.owner + 1), std::memory_order_relaxed);
    }
  }
}

PageRange PendingPages::NextInOrder() {
  if (has_returned_.load(std::memory_order_acquire)) {
    const absl::MutexLock lock(&mutex_);
    if (!returned_.empty()) {
      const PageRange next = returned_.back();
      returned_.pop_back();
      has_returned_.store(!returned_.empty(), std::memory_order_release);
      return next;
    }
  }
  const size_t next = next_in_order_.fetch_add(1, std::memory_order_acq_rel);
  if (next < order_.size()) {
    return order_[next];
  }
  // Many ask, and none ever wraps it.
  next_in_order_.store(order_.size(), std::memory_order_release);
  return {};
}

uint64_t PendingPages::TakeBackFrom(size_t owner, std::span<const PageRange> missing, bool last) {
  const auto mark = static_cast<uint8_t>(owner + 1);
  const absl::MutexLock lock(&mutex_);
  uint64_t pages = TakeBackAwaitedFrom(owner, missing, last);
  for (const PageRange& run : missing) {
    Region& region = *regions_[run.region];
    const uint64_t per_unit = region.pages_per_unit;
    const uint64_t end = run.first + run.count;
    for (uint64_t first = run.first / per_unit * per_unit; first < end;) {
      const uint64_t block = first / region.pages_per_block;
      if (region.owners[block].load(std::memory_order_relaxed) != mark) {
        first = (block + 1) * region.pages_per_block;
        continue;
      }
      if (!region.pending.Test(first) && !region.requested.Test(first)) {
        pages += Return(run.region, first);
      }
      first += per_unit;
    }
  }
  has_awaited_.store(!awaited_.empty(), std::memory_order_release);
  if (!last) {
    return pages;
  }
  for (size_t index = regions_.size(); index-- > 0;) {
    Region& region = *regions_[index];
    for (uint64_t block = region.busy.size(); block-- > 0;) {
      if (region.owners[block].load(std::memory_order_relaxed) != mark) {
        continue;
      }
      region.owners[block].store(0, std::memory_order_relaxed);
      const uint64_t first = block * region.pages_per_block;
      const uint64_t end = std::min(first + region.pages_per_block, region.pending.pages());
      bool is_pending = false;
      for (uint64_t word = first / 64; word * 64 < end; ++word) {
        is_pending = is_pending || region.pending.Word(word) != 0;
      }
      if (!is_pending) {
        continue;
      }
      // From the back of this they are leased, of small blocks several at once.
      PageRange* const behind = returned_.empty() ? nullptr : &returned_.back();
      if (behind != nullptr && behind->region == index && behind->first == end && behind->count < kBlockPages) {
        *behind = {.region = behind->region, .first = first, .count = behind->count + end - first};
      } else {
        returned_.push_back({.region = static_cast<uint16_t>(index), .first = first, .count = end - first});
      }
    }
  }
  has_returned_.store(!returned_.empty(), std::memory_order_release);
  return pages;
}

uint64_t PendingPages::TakeBackAwaitedFrom(size_t owner, std::span<const PageRange> missing, bool last) {
  uint64_t pages = 0;
  std::erase_if(claimed_awaited_, [&](const Claimed& claimed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const PageRange& unit = claimed.unit;
    const bool is_missing = std::any_of(missing.begin(), missing.end(), [&unit](const PageRange& run) {
      return run.region == unit.region && run.first < unit.first + unit.count && unit.first < run.first + run.count;
    });
    if (claimed.owner == owner && is_missing) {
      // From here on who has leased its block may claim it, too.
      regions_[unit.region]->requested.ClearRange(unit.first, unit.count);
      pages += Return(unit.region, unit.first);
    }
    return claimed.owner == owner && (is_missing || last);
  });
  return pages;
}

uint64_t PendingPages::Return(uint16_t index, uint64_t first) {
  Region& region = *regions_[index];
  const uint64_t per_unit = region.pages_per_unit;
  if (region.awaited.Test(first)) {
    awaited_.push_back({.region = index, .first = first, .count = per_unit});
  }
  // The first page of a unit is what it is claimed by: last.
  region.pending.SetRange(first + 1, per_unit - 1);
  region.pending.Set(first);
  return per_unit;
}

std::optional<PageRange> PendingPages::ClaimAwaited(size_t owner) {
  if (!has_awaited_.load(std::memory_order_acquire)) {
    return std::nullopt;
  }
  const absl::MutexLock lock(&mutex_);
  std::optional<PageRange> claimed;
  while (!claimed.has_value() && !awaited_.empty()) {
    const PageRange unit = awaited_.back();
    awaited_.pop_back();
    if (ClaimUnitsFrom(unit.region, unit.first / unit.count, 1).count > 0) {
      regions_[unit.region]->requested.SetRange(unit.first, unit.count);
      claimed_awaited_.push_back({.owner = owner, .unit = unit});
      claimed = unit;
    }
  }
  has_awaited_.store(!awaited_.empty(), std::memory_order_release);
  return claimed;
}

}  // namespace ferrite::migration
