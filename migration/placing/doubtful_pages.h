// Pages whose bytes in a round were not those that the source had summed.
#ifndef FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_
#define FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_

#include <cstdint>
#include <deque>
#include <vector>

#include "memory/page_range.h"
#include "migration/placing/page_set.h"

namespace ferrite::migration {

// A guest that runs may write a page between its sum and its leaving; then the page is dirty, and comes again or is
// discarded before the switchover. One that is still here behind the last round was changed on its way (R1).
//
// Threads: any; no two for the same page.
class DoubtfulPages {
 public:
  // `pages`: of each region.
  explicit DoubtfulPages(const std::vector<uint64_t>& pages) {
    for (const uint64_t count : pages) {
      regions_.emplace_back(count);
    }
  }

  void Doubt(const PageRange& run) { regions_[run.region].Add(run.first, run.count); }
  // They have come as they were summed, or are out of date.
  void Settle(const PageRange& run) { regions_[run.region].Remove(run.first, run.count); }
  // While nothing comes.
  uint64_t Count() const {
    uint64_t count = 0;
    for (const PageSet& region : regions_) {
      count += region.Count();
    }
    return count;
  }

 private:
  std::deque<PageSet> regions_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_
