// Pages whose bytes in a round were not those that the source had summed.
#ifndef FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_
#define FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"

namespace ferrite::migration {

// A guest that runs may write a page between its sum and its leaving; then the page is dirty, and comes again or is
// discarded before the switchover. One that is still here behind the last round was changed on its way (R1).
//
// Threads: any; no two for the same page.
class DoubtfulPages {
 public:
  // `pages`: of each region.
  explicit DoubtfulPages(std::vector<uint64_t> pages) : pages_(std::move(pages)) {}

  void Doubt(const PageRange& run) {
    const absl::MutexLock lock(&mutex_);
    if (regions_.empty()) {
      std::vector<std::unique_ptr<PageBitmap>> regions;
      for (const uint64_t pages : pages_) {
        regions.push_back(std::make_unique<PageBitmap>(pages));
      }
      regions_ = std::move(regions);
    }
    regions_[run.region]->SetRange(run.first, run.count);
    any_.store(true, std::memory_order_release);
  }
  // They have come as they were summed, or are out of date.
  void Settle(const PageRange& run) {
    if (any_.load(std::memory_order_acquire)) {
      regions_[run.region]->ClearRange(run.first, run.count);
    }
  }
  // While nothing comes.
  uint64_t Count() const {
    uint64_t count = 0;
    for (const auto& region : regions_) {
      count += region->Count();
    }
    return count;
  }

 private:
  const std::vector<uint64_t> pages_;
  std::atomic<bool> any_{false};
  absl::Mutex mutex_;  // of Doubt()
  // Made with the first doubt, all or none, and the same from when `any_` is set.
  std::vector<std::unique_ptr<PageBitmap>> regions_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_DOUBTFUL_PAGES_H_
