// A bandwidth limit: a token bucket without a clock of its own.
#ifndef FERRITE_MIGRATION_SENDING_RATE_LIMITER_H_
#define FERRITE_MIGRATION_SENDING_RATE_LIMITER_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite::migration {

// Threads: any.
class RateLimiter {
 public:
  // 0: no limit.
  explicit RateLimiter(uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  void SetRate(uint64_t bytes_per_second);

  // Takes `bytes` at the time `now` and returns how long to wait before sending them. What was not used in the last 50
  // ms is lost, so that a pause does not end in a burst.
  absl::Duration Take(uint64_t bytes, MonotonicTime now);
  // Takes `bytes` and returns true when that needs no waiting; else takes nothing.
  bool TryTake(uint64_t bytes, MonotonicTime now);
  // How long until TryTake() takes something.
  absl::Duration DelayAt(MonotonicTime now);
  // So much more (or less) was sent than taken.
  void Correct(int64_t bytes);

 private:
  absl::Duration TakeLocked(uint64_t bytes, MonotonicTime now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Mutex mutex_;
  uint64_t bytes_per_second_ ABSL_GUARDED_BY(mutex_);
  // When all that was taken so far has been sent at the allowed rate.
  MonotonicTime free_at_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfinitePast();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_RATE_LIMITER_H_
