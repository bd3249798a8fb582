// Keeps the host from filling up with a huge page what a guest's balloon gave back.
#ifndef FERRITE_DEVICES_BALLOON_SMALL_BLOCKS_H_
#define FERRITE_DEVICES_BALLOON_SMALL_BLOCKS_H_

#include <cstdint>

#include "memory/guest_address.h"
#include "memory/memory_region.h"
#include "memory/page_bitmap.h"

namespace ferrite {

// Blocks of 2 MiB of a region that has transparent huge pages. A huge page holds all of its memory: where a part of a
// block is in the balloon, the first touch of the rest, or the kernel's khugepaged some minutes later, would take that
// part from the host again. So such blocks are advised to have none (madvise(2)) for as long as a page of them is in
// the balloon. That is advice: where the kernel does not take it, nothing is lost but memory.
//
// Each piece of advised blocks is a mapping of its own for the kernel, of which a process has 65,530 by default. The
// guest chooses how scattered its balloon is, so there are kMostPieces at the most; what lies beyond stays as it was.
//
// Threads: one at a time.
class SmallBlocks {
 public:
  static constexpr uint64_t kMostPieces = 8192;

  // `region` outlives this.
  explicit SmallBlocks(MemoryRegion& region);

  // The blocks that pages [first, first + count) are in, before these are given back.
  void Keep(uint64_t first, uint64_t count);
  bool kept(uint64_t page) const { return blocks_.Test(BlockOf(page)); }
  // Whether `pages`, a bit for each of the region's, has none of the block that `page` is in.
  static bool IsBlockClear(uint64_t page, const PageBitmap& pages);
  // The block that `page` is in may be a huge page again.
  void Release(uint64_t page);
  void ReleaseAll();

 private:
  static uint64_t BlockOf(uint64_t page) { return page / kBlockPages; }
  // How many pieces more there are with `block`: -1, 0 or 1.
  int NewPieces(uint64_t block) const;
  void Advise(uint64_t first, uint64_t blocks, int advice);

  MemoryRegion& region_;
  PageBitmap blocks_;
  uint64_t pieces_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BALLOON_SMALL_BLOCKS_H_
