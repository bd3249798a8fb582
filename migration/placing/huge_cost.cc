#include "migration/placing/huge_cost.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "migration/placing/placer.h"

namespace ferrite::migration {
namespace {

// Fewer pages say nothing about what a block costs.
constexpr uint64_t kTypicalPages = 16;

}  // namespace

absl::Duration HugeCost::Costs::Median() const {
  std::array<absl::Duration, std::tuple_size_v<decltype(last_)>> sorted = last_;
  const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min<uint64_t>(count_, sorted.size()));
  const auto middle = sorted.begin() + (end - sorted.begin() - 1) / 2;
  std::nth_element(sorted.begin(), middle, end);
  return *middle;
}

bool HugeCost::WantsHuge() {
  const absl::MutexLock lock(&mutex_);
  if (!small_.known()) {
    return false;
  }
  const absl::Duration small = small_.Median();
  const bool dear = huge_.known() && huge_.Median() > small && huge_.last() > small;
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
  huge_.Add(time);
}

void HugeCost::TookSmall(absl::Duration time, uint64_t pages) {
  if (pages < kTypicalPages) {
    return;
  }
  const absl::MutexLock lock(&mutex_);
  small_.Add(time * kBlockPages / pages);
}

}  // namespace ferrite::migration
