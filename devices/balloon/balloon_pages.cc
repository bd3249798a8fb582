#include "devices/balloon/balloon_pages.h"

#include <algorithm>
#include <string>

#include "base/log.h"

namespace ferrite {
namespace {

// A cache line of a bitmap.
constexpr uint64_t kLinePages = 512;

}  // namespace

BalloonPages::RegionPages::RegionPages(MemoryRegion* region)
    : region(region),
      inflated(region->pages()),
      used_blocks((region->pages() + kLinePages - 1) / kLinePages),
      pending(region->pages()),
      small(*region) {}

BalloonPages::BalloonPages(GuestMemory& memory) {
  for (const auto& region : memory.regions()) {
    regions_.emplace_back(region.get());
  }
}

std::pair<BalloonPages::RegionPages*, uint64_t> BalloonPages::Find(uint64_t frame) {
  for (RegionPages& pages : regions_) {
    const uint64_t first = pages.region->base().value() / kPageBytes;
    if (frame >= first && frame - first < pages.region->pages()) {
      return {&pages, frame - first};
    }
  }
  return {nullptr, 0};
}

bool BalloonPages::Inflate(uint64_t frame) {
  const auto [pages, page] = Find(frame);
  if (pages == nullptr) {
    return false;
  }
  if (!pages->inflated.Set(page)) {
    pages->used_blocks.Set(page / kLinePages);
    pages->pending.Set(page);
    pages->pending_from = std::min(pages->pending_from, page);
    ++pending_count_;
  }
  return true;
}

bool BalloonPages::Deflate(uint64_t frame, Share& share) {
  const auto [pages, page] = Find(frame);
  if (pages == nullptr) {
    return false;
  }
  pages->inflated.Clear(page);
  if (pages->pending.Clear(page)) {
    --pending_count_;
  }
  if (pages->small.kept(page) && pages->small.IsBlockClear(page, pages->inflated)) {
    pages->small.Release(page);
    share.calls -= std::min<uint64_t>(share.calls, 1);
  }
  return true;
}

void BalloonPages::Clear() {
  for (RegionPages& pages : regions_) {
    for (auto block = pages.used_blocks.FindSet(0); block.has_value(); block = pages.used_blocks.FindSet(*block)) {
      const uint64_t first = *block * kLinePages;
      const uint64_t count = std::min(kLinePages, pages.region->pages() - first);
      pages.inflated.ClearRange(first, count);
      pages.pending.ClearRange(first, count);
      pages.used_blocks.Clear(*block);
    }
    pages.small.ReleaseAll();
  }
  pending_count_ = 0;
}

std::vector<BalloonPages::Range> BalloonPages::Inflated() const {
  std::vector<Range> ranges;
  for (const RegionPages& pages : regions_) {
    uint64_t end = 0;
    while (const auto first = pages.inflated.FindSet(end)) {
      end = pages.inflated.FindClear(*first).value_or(pages.region->pages());
      ranges.push_back({pages.region->base() + *first * kPageBytes, (end - *first) * kPageBytes});
      if (end == pages.region->pages()) {
        break;
      }
    }
  }
  return ranges;
}

void BalloonPages::InflateRange(const Range& range) {
  const uint64_t first = range.start.value() / kPageBytes;
  for (uint64_t frame = first; frame < first + range.bytes / kPageBytes; ++frame) {
    Inflate(frame);
  }
}

uint64_t BalloonPages::Reclaim(Share& share) {
  uint64_t reclaimed = 0;
  for (RegionPages& pages : regions_) {
    while (pending_count_ != 0 && !share.used_up()) {
      const auto first = pages.pending.FindSet(pages.pending_from);
      if (!first.has_value()) {
        pages.pending_from = pages.region->pages();
        break;
      }
      const uint64_t end = pages.pending.FindClear(*first).value_or(pages.region->pages());
      const uint64_t count = std::min(end - *first, share.pages);
      pages.pending.ClearRange(*first, count);
      pages.pending_from = *first + count;
      pending_count_ -= count;
      share.pages -= count;
      --share.calls;
      reclaimed += ReclaimRun(pages, *first, count);
    }
  }
  return reclaimed;
}

bool BalloonPages::HostPageInflated(const RegionPages& pages, uint64_t first) const {
  const uint64_t end = first + pages.region->host_page_bytes() / kPageBytes;
  return pages.inflated.FindClear(first).value_or(pages.region->pages()) >= end;
}

// Widens the run to whole host pages, then leaves out those of which a part is not in the balloon: only the first and
// the last can be such, as all pages of the run are in it.
uint64_t BalloonPages::ReclaimRun(RegionPages& pages, uint64_t first, uint64_t count) {
  pages.small.Keep(first, count);
  const uint64_t host_page = pages.region->host_page_bytes() / kPageBytes;
  uint64_t begin = first / host_page * host_page;
  uint64_t end = (first + count + host_page - 1) / host_page * host_page;
  if (!HostPageInflated(pages, begin)) {
    begin += host_page;
  }
  if (end > begin && !HostPageInflated(pages, end - host_page)) {
    end -= host_page;
  }
  return end > begin ? DiscardPages(*pages.region, begin, end - begin) : 0;
}

uint64_t BalloonPages::Discard(GuestAddress address, uint64_t bytes) {
  const uint64_t start = address.value();
  const uint64_t end = bytes <= UINT64_MAX - start ? start + bytes : UINT64_MAX;
  uint64_t discarded = 0;
  for (RegionPages& pages : regions_) {
    const uint64_t base = pages.region->base().value();
    const uint64_t from = std::max(start, base);
    const uint64_t to = std::min(end, pages.region->end().value());
    if (from >= to) {
      continue;
    }
    const uint64_t first = (from - base + kPageBytes - 1) / kPageBytes;
    const uint64_t last = (to - base) / kPageBytes;
    if (last > first) {
      discarded += DiscardPages(*pages.region, first, last - first);
    }
  }
  return discarded;
}

uint64_t BalloonPages::DiscardPages(MemoryRegion& region, uint64_t first, uint64_t count) {
  auto discarded = region.Discard(first * kPageBytes, count * kPageBytes);
  if (discarded.ok()) {
    return *discarded;
  }
  // Nothing is lost but host memory; the guest chooses how often this happens.
  if (!failure_logged_) {
    failure_logged_ = true;
    Log().warn("virtio-balloon: memory was not given back: {} (logged once)",
               std::string(discarded.status().message()));
  }
  return 0;
}

}  // namespace ferrite
