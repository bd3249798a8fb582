#include "migration/placing/wait_accounts.h"

namespace ferrite::migration {

void WaitAccounts::Begin(pid_t thread, size_t region, uint64_t page, MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  waiting_[thread] = {.region = region, .page = page, .since = now};
  waiting_count_.store(static_cast<int>(waiting_.size()), std::memory_order_release);
}

void WaitAccounts::End(size_t region, uint64_t first, uint64_t count, MonotonicTime now) {
  if (waiting_count_.load(std::memory_order_acquire) == 0) {
    return;
  }
  const absl::MutexLock lock(&mutex_);
  for (auto entry = waiting_.begin(); entry != waiting_.end();) {
    const Waiting& waiting = entry->second;
    if (waiting.region == region && waiting.page >= first && waiting.page - first < count &&
        is_here_(region, waiting.page)) {
      histograms_[vcpu_of_(entry->first).value_or(WaitingFigures::kMonitor)].Add(
          static_cast<uint64_t>(absl::ToInt64Nanoseconds(now - waiting.since)));
      entry = waiting_.erase(entry);
    } else {
      ++entry;
    }
  }
  waiting_count_.store(static_cast<int>(waiting_.size()), std::memory_order_release);
}

std::vector<WaitingFigures> WaitAccounts::Figures() const {
  const absl::MutexLock lock(&mutex_);
  std::vector<WaitingFigures> figures;
  for (const auto& [vcpu, histogram] : histograms_) {
    figures.push_back({.vcpu = vcpu,
                       .count = histogram.count(),
                       .p50 = absl::Nanoseconds(histogram.Quantile(0.5)),
                       .p99 = absl::Nanoseconds(histogram.Quantile(0.99)),
                       .max = absl::Nanoseconds(histogram.max()),
                       .sum = absl::Nanoseconds(histogram.sum())});
  }
  return figures;
}

}  // namespace ferrite::migration
