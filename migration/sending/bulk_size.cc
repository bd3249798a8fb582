#include "migration/sending/bulk_size.h"

#include <algorithm>

namespace ferrite::migration {

void BulkSize::Note(absl::Duration delay) {
  if (delay <= kAim) {
    pages_ = std::min(pages_ + pages_ / 4 + 1, kMost);
    return;
  }
  // What was measured is of larger claims, and of some time ago: no more than half at once.
  const double ratio = std::max(absl::FDivDuration(kAim, delay), 0.5);
  pages_ = std::max(static_cast<uint64_t>(static_cast<double>(pages_) * ratio), kLeast);
}

}  // namespace ferrite::migration
