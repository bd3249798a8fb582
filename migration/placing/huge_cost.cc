#include "migration/placing/huge_cost.h"

#include <algorithm>

#include "migration/placing/placer.h"

namespace ferrite::migration {
namespace {

// Fewer pages say nothing about what a block costs.
constexpr uint64_t kTypicalPages = 16;

// The last few blocks count.
void Learn(double& known, double seconds) { known = known < 0 ? seconds : known + (seconds - known) / 4; }

}  // namespace

bool HugeCost::WantsHuge() {
  const absl::MutexLock lock(&mutex_);
  if (small_seconds_ < 0) {
    return false;
  }
  const bool dear = huge_seconds_ > small_seconds_;
  if (!dear) {
    pause_ = kFirstPause;
  } else if (++small_in_a_row_ <= pause_) {
    return false;
  } else {
    pause_ = std::min(2 * pause_, kLongestPause);
  }
  small_in_a_row_ = 0;
  return true;
}

void HugeCost::TookHuge(absl::Duration time) {
  const absl::MutexLock lock(&mutex_);
  Learn(huge_seconds_, absl::ToDoubleSeconds(time));
}

void HugeCost::TookSmall(absl::Duration time, uint64_t pages) {
  if (pages < kTypicalPages) {
    return;
  }
  const absl::MutexLock lock(&mutex_);
  Learn(small_seconds_, absl::ToDoubleSeconds(time) / static_cast<double>(pages) * kBlockPages);
}

}  // namespace ferrite::migration
