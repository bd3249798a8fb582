// Which pages of a guest are in its balloon, and giving them back to the host.
#ifndef FERRITE_DEVICES_BALLOON_BALLOON_PAGES_H_
#define FERRITE_DEVICES_BALLOON_BALLOON_PAGES_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "devices/balloon/small_blocks.h"
#include "memory/guest_memory.h"
#include "memory/page_bitmap.h"

namespace ferrite {

// Threads: one at a time.
class BalloonPages {
 public:
  struct Range {
    GuestAddress start;
    uint64_t bytes;
    bool operator==(const Range&) const = default;
  };

  // `memory` outlives this.
  explicit BalloonPages(GuestMemory& memory);

  // How much may still be given back now. The kernel's work for it is per call as well as per page, and the guest
  // chooses how scattered its pages are.
  struct Share {
    uint64_t pages;
    uint64_t calls;
    bool used_up() const { return pages == 0 || calls == 0; }
  };

  // Notes that a page came into the balloon, to be reclaimed, or left it. False when there is no RAM at that guest page
  // frame. Twice the same changes nothing. Of the share, Deflate() takes its calls to the kernel, and makes them
  // anyway.
  bool Inflate(uint64_t frame);
  bool Deflate(uint64_t frame, Share& share);
  // Forgets every page. Takes as long as there were pages, whatever the size of the guest.
  void Clear();

  // Sorted and disjoint, each in one region.
  std::vector<Range> Inflated() const;
  // Adds all pages of a range that lies in one region, to be reclaimed.
  void InflateRange(const Range& range);

  // Whether pages wait to be reclaimed.
  bool pending() const { return pending_count_ != 0; }
  // Gives back what waits, no more than the share, and takes it off: pending() says whether to call again. Adjacent
  // pages go in one call; a host page larger than the guest's is given back when all of it is in the balloon. Returns
  // the bytes given back.
  uint64_t Reclaim(Share& share);

  // Gives back the whole host pages in a range, whether in the balloon or not. What is not RAM is left out.
  uint64_t Discard(GuestAddress address, uint64_t bytes);

 private:
  struct RegionPages {
    explicit RegionPages(MemoryRegion* region);

    MemoryRegion* region;
    PageBitmap inflated;
    PageBitmap used_blocks;     // a bit for kBlockPages of `inflated`: one was set there since Clear()
    PageBitmap pending;         // a part of inflated
    uint64_t pending_from = 0;  // no page below is pending
    SmallBlocks small;          // those that have a page in `inflated`, once it was given back
  };

  // The region and the page in it; null when there is no RAM.
  std::pair<RegionPages*, uint64_t> Find(uint64_t frame);
  bool HostPageInflated(const RegionPages& pages, uint64_t first) const;
  uint64_t ReclaimRun(RegionPages& pages, uint64_t first, uint64_t count);
  uint64_t DiscardPages(MemoryRegion& region, uint64_t first, uint64_t count);

  std::vector<RegionPages> regions_;
  uint64_t pending_count_ = 0;
  bool failure_logged_ = false;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BALLOON_BALLOON_PAGES_H_
