#include "devices/balloon/small_blocks.h"

#include <sys/mman.h>

#include <algorithm>

namespace ferrite {

SmallBlocks::SmallBlocks(MemoryRegion& region)
    : region_(region), blocks_((region.pages() + kBlockPages - 1) / kBlockPages) {}

bool SmallBlocks::IsBlockClear(uint64_t page, const PageBitmap& pages) {
  constexpr uint64_t kBlockWords = kBlockPages / 64;
  const uint64_t first = BlockOf(page) * kBlockWords;
  for (uint64_t word = first; word < std::min(first + kBlockWords, pages.words()); ++word) {
    if (pages.Word(word) != 0) {
      return false;
    }
  }
  return true;
}

void SmallBlocks::Keep(uint64_t first, uint64_t count) {
  if (region_.backing() != MemoryBacking::kAnonymous || !region_.thp() || count == 0) {
    return;
  }
  const uint64_t end = BlockOf(first + count - 1) + 1;
  uint64_t block = BlockOf(first);
  while (block < end) {
    const uint64_t begin = block;
    for (; block < end && !blocks_.Test(block); ++block) {
      const int more = NewPieces(block);
      if (more > 0 && pieces_ >= kMostPieces) {
        break;
      }
      blocks_.Set(block);
      pieces_ += static_cast<uint64_t>(static_cast<int64_t>(more));
    }
    if (block > begin) {
      Advise(begin, block - begin, MADV_NOHUGEPAGE);
    } else {
      ++block;
    }
  }
}

void SmallBlocks::Release(uint64_t page) {
  const uint64_t block = BlockOf(page);
  if (blocks_.Clear(block)) {
    pieces_ -= static_cast<uint64_t>(static_cast<int64_t>(NewPieces(block)));
    // A move may have turned them off for all of the memory.
    if (region_.thp()) {
      Advise(block, 1, MADV_HUGEPAGE);
    }
  }
}

void SmallBlocks::ReleaseAll() {
  if (pieces_ == 0) {
    return;
  }
  blocks_.ClearAll();
  pieces_ = 0;
  if (region_.thp()) {
    Advise(0, blocks_.pages(), MADV_HUGEPAGE);
  }
}

int SmallBlocks::NewPieces(uint64_t block) const {
  const bool before = block > 0 && blocks_.Test(block - 1);
  const bool after = block + 1 < blocks_.pages() && blocks_.Test(block + 1);
  return 1 - static_cast<int>(before) - static_cast<int>(after);
}

void SmallBlocks::Advise(uint64_t first, uint64_t blocks, int advice) {
  const uint64_t begin = first * kBlockPages * kPageBytes;
  const uint64_t end = std::min((first + blocks) * kBlockPages * kPageBytes, region_.bytes());
  (void)madvise(region_.guest_mapping().data() + begin, end - begin, advice);
}

}  // namespace ferrite
