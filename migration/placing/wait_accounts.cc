#include "migration/placing/wait_accounts.h"

#include <limits>

namespace ferrite::migration {

void WaitAccounts::Begin(pid_t thread, size_t region, uint64_t page, MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  const auto [entry, is_new] = waiting_.try_emplace(thread);
  if (!is_new) {
    by_page_.erase({entry->second.region, entry->second.page, thread});
  }
  entry->second = {.region = region, .page = page, .since = now};
  by_page_.insert({region, page, thread});
  waiting_count_.store(static_cast<int>(waiting_.size()), std::memory_order_release);
}

void WaitAccounts::End(size_t region, uint64_t first, uint64_t count, MonotonicTime now) {
  if (waiting_count_.load(std::memory_order_acquire) == 0) {
    return;
  }
  const absl::MutexLock lock(&mutex_);
  auto entry = by_page_.lower_bound({region, first, std::numeric_limits<pid_t>::min()});
  while (entry != by_page_.end()) {
    const auto [of, page, thread] = *entry;
    if (of != region || page - first >= count) {
      break;
    }
    if (!is_here_(region, page)) {
      ++entry;
      continue;
    }
    const auto waiting = waiting_.find(thread);
    histograms_[vcpu_of_(thread).value_or(WaitingFigures::kMonitor)].Add(
        static_cast<uint64_t>(absl::ToInt64Nanoseconds(now - waiting->second.since)));
    waiting_.erase(waiting);
    entry = by_page_.erase(entry);
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
