// Some pages of a region, most often none.
#ifndef FERRITE_MIGRATION_PLACING_PAGE_SET_H_
#define FERRITE_MIGRATION_PLACING_PAGE_SET_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/synchronization/mutex.h"
#include "memory/page_bitmap.h"

namespace ferrite::migration {

// A bitmap that takes memory from when the first page is added: Add() may throw std::bad_alloc, and nothing is added
// then. Threads: any; no two for the same page, and Next() and Count() want a quiet set.
class PageSet {
 public:
  explicit PageSet(uint64_t pages) : pages_(pages) {}

  void Add(uint64_t first, uint64_t count) {
    const absl::MutexLock lock(&mutex_);
    if (bitmap_ == nullptr) {
      bitmap_ = std::make_unique<PageBitmap>(pages_);
    }
    bitmap_->SetRange(first, count);
    any_.store(true, std::memory_order_release);
  }
  void Remove(uint64_t first, uint64_t count) {
    if (any_.load(std::memory_order_acquire)) {
      bitmap_->ClearRange(first, count);
    }
  }
  // The first one at or after `from`.
  std::optional<uint64_t> Next(uint64_t from) const {
    return any_.load(std::memory_order_acquire) ? bitmap_->FindSet(from) : std::nullopt;
  }
  uint64_t Count() const { return any_.load(std::memory_order_acquire) ? bitmap_->Count() : 0; }

 private:
  const uint64_t pages_;
  std::atomic<bool> any_{false};        // ever
  absl::Mutex mutex_;                   // of Add()
  std::unique_ptr<PageBitmap> bitmap_;  // made with the first page, and the same from when `any_` is set
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_PAGE_SET_H_
