// How memory is cut in chunks that are registered one by one.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_CHUNKS_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_CHUNKS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "memory/page_range.h"

namespace ferrite::migration {

// Regions by number; of an empty one nothing is ever registered. Chunks are numbered one after the other over all
// regions. Threads: any.
class Chunks {
 public:
  // `bytes`: as IsRdmaChunk().
  Chunks(std::vector<std::span<uint8_t>> regions, uint64_t bytes);

  size_t count() const { return count_; }
  // The one that holds `page`; none where the region has no memory, or no such page.
  std::optional<size_t> Find(uint16_t region, uint64_t page) const;
  // Whether these pages are one: which. None for what is cut otherwise.
  std::optional<size_t> Match(const PageRange& pages) const;
  PageRange pages(size_t chunk) const;
  std::span<uint8_t> bytes(size_t chunk) const;
  // Pages of the same chunk from the front of `run` on, which Find() has.
  uint64_t PagesInOne(const PageRange& run) const;
  // The bytes of `run`, which is in one.
  std::span<uint8_t> BytesOf(const PageRange& run) const;

 private:
  const std::vector<std::span<uint8_t>> regions_;
  const uint64_t pages_;        // of a chunk
  std::vector<size_t> firsts_;  // of each region
  size_t count_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_CHUNKS_H_
