// Who waits for which page, and for how long: measured where the guest is.
#ifndef FERRITE_MIGRATION_PLACING_WAIT_ACCOUNTS_H_
#define FERRITE_MIGRATION_PLACING_WAIT_ACCOUNTS_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "migration/api/move_report.h"
#include "migration/placing/latency_histogram.h"

namespace ferrite::migration {

// Threads: any. A thread waits for one page at a time.
class WaitAccounts {
 public:
  // `vcpu_of` tells whose thread it is; threads that are no vCPU's are counted together. `is_here` tells whether the
  // guest sees a page.
  WaitAccounts(std::function<std::optional<uint32_t>(pid_t)> vcpu_of,
               std::function<bool(size_t region, uint64_t page)> is_here)
      : vcpu_of_(std::move(vcpu_of)), is_here_(std::move(is_here)) {}

  void Begin(pid_t thread, size_t region, uint64_t page, MonotonicTime now);
  // Pages [first, first + count) have come: who waits for one that the guest sees now waits no longer. Of what is kept
  // for later (BlockGatherer) that is told when it is shown.
  void End(size_t region, uint64_t first, uint64_t count, MonotonicTime now);

  std::vector<WaitingFigures> Figures() const;

 private:
  struct Waiting {
    size_t region;
    uint64_t page;
    MonotonicTime since;
  };

  const std::function<std::optional<uint32_t>(pid_t)> vcpu_of_;
  const std::function<bool(size_t, uint64_t)> is_here_;
  // Read without the lock: almost always nobody waits for what arrives.
  std::atomic<int> waiting_count_{0};
  mutable absl::Mutex mutex_;
  std::map<pid_t, Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  // The same by what they wait for: each arrival looks for its own pages alone.
  std::set<std::tuple<size_t, uint64_t, pid_t>> by_page_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, LatencyHistogram> histograms_ ABSL_GUARDED_BY(mutex_);  // by vCPU
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_WAIT_ACCOUNTS_H_
