#include "migration/channel/rdma/chunks.h"

#include <algorithm>
#include <utility>

#include "memory/guest_address.h"

namespace ferrite::migration {

Chunks::Chunks(std::vector<std::span<uint8_t>> regions, uint64_t bytes)
    : regions_(std::move(regions)), pages_(bytes / kPageBytes) {
  for (const std::span<uint8_t> region : regions_) {
    firsts_.push_back(count_);
    count_ += (region.size() / kPageBytes + pages_ - 1) / pages_;
  }
}

std::optional<size_t> Chunks::Find(uint16_t region, uint64_t page) const {
  if (region >= regions_.size() || page >= regions_[region].size() / kPageBytes) {
    return std::nullopt;
  }
  return firsts_[region] + page / pages_;
}

std::optional<size_t> Chunks::Match(const PageRange& run) const {
  const std::optional<size_t> chunk = Find(run.region, run.first);
  return chunk.has_value() && pages(*chunk) == run ? chunk : std::nullopt;
}

PageRange Chunks::pages(size_t chunk) const {
  // The last region that begins there or before, and is not empty.
  const auto next = std::upper_bound(firsts_.begin(), firsts_.end(), chunk);
  const auto region = static_cast<size_t>(next - firsts_.begin()) - 1;
  const uint64_t first = (chunk - firsts_[region]) * pages_;
  return {.region = static_cast<uint16_t>(region),
          .first = first,
          .count = std::min(pages_, regions_[region].size() / kPageBytes - first)};
}

std::span<uint8_t> Chunks::bytes(size_t chunk) const { return BytesOf(pages(chunk)); }

uint64_t Chunks::PagesInOne(const PageRange& run) const { return std::min(run.count, pages_ - run.first % pages_); }

std::span<uint8_t> Chunks::BytesOf(const PageRange& run) const {
  return regions_[run.region].subspan(run.first * kPageBytes, run.count * kPageBytes);
}

}  // namespace ferrite::migration
