// What the source of a move has sent.
#ifndef FERRITE_MIGRATION_SENDING_SEND_FIGURES_H_
#define FERRITE_MIGRATION_SENDING_SEND_FIGURES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"
#include "migration/api/move_report.h"

namespace ferrite::migration {

// Host pages that went as lost (R9), each once however often it went. Threads: any.
class SentLost {
 public:
  void Add(const PageRange& page) {
    const absl::MutexLock lock(&mutex_);
    pages_[{page.region, page.first}] = page.count;
  }
  // In order.
  std::vector<PageRange> Get() const {
    const absl::MutexLock lock(&mutex_);
    std::vector<PageRange> pages;
    for (const auto& [place, count] : pages_) {
      pages.push_back({.region = place.first, .first = place.second, .count = count});
    }
    return pages;
  }

 private:
  mutable absl::Mutex mutex_;
  std::map<std::pair<uint16_t, uint64_t>, uint64_t> pages_ ABSL_GUARDED_BY(mutex_);
};

// Of one part. Threads: any.
struct PartSent {
  std::atomic<uint64_t> data_pages{0};
  std::atomic<uint64_t> zero_pages{0};
  std::atomic<uint64_t> again_pages{0};

  void AddTo(PartFigures& figures) const {
    figures.data_bytes = data_pages * kPageBytes;
    figures.zero_bytes = zero_pages * kPageBytes;
    figures.again_bytes = again_pages * kPageBytes;
  }
};

// All channels of a move together, those of connections that are gone among them. Threads: any.
struct SendFigures {
  std::atomic<uint64_t> data_pages{0};
  std::atomic<uint64_t> zero_pages{0};     // those that were skipped are told to be zero, too
  std::atomic<uint64_t> skipped_pages{0};  // after they were counted as zero
  std::atomic<uint64_t> resent_pages{0};
  std::atomic<uint64_t> bytes{0};
  std::atomic<uint64_t> faults{0};
  std::atomic<uint64_t> requested_pages{0};
  std::atomic<uint64_t> prefetched_pages{0};
  std::atomic<uint64_t> prefetch_hits{0};
  std::atomic<uint32_t> broken_channels{0};  // that ended alone
  SentLost lost;
  // Of all that, what is of mirrored parts. Pages count from before they are sent: who reads the two above first, with
  // acquire, and then this, never takes one of these for another.
  std::atomic<uint64_t> mirrored_pages{0};
  std::atomic<uint64_t> mirrored_bytes{0};
  // Of each part but the first one, or of none. Set before anything is sent.
  std::vector<PartSent> further;

  void AddTo(MoveReport& report) const {
    report.skipped_pages = skipped_pages;
    report.data_pages = data_pages;
    report.zero_pages = zero_pages - report.skipped_pages;
    report.resent_pages = resent_pages;
    report.bytes = bytes;
    report.requested_pages = requested_pages;
    report.prefetched_pages = prefetched_pages;
    report.prefetch_hits = prefetch_hits;
    report.broken_channels = broken_channels;
    AddTo(report.parts);
  }
  // `parts`: those of `further`, or the first ones of them.
  void AddTo(std::vector<PartFigures>& parts) const {
    for (size_t i = 0; i < parts.size(); ++i) {
      further[i].AddTo(parts[i]);
    }
  }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_SEND_FIGURES_H_
