#include "migration/sending/rate_limiter.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

constexpr absl::Duration kBurst = absl::Milliseconds(50);

}  // namespace

void RateLimiter::SetRate(uint64_t bytes_per_second) {
  const absl::MutexLock lock(&mutex_);
  bytes_per_second_ = bytes_per_second;
  free_at_ = MonotonicTime::InfinitePast();
}

absl::Duration RateLimiter::Take(uint64_t bytes, MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  return TakeLocked(bytes, now);
}

bool RateLimiter::TryTake(uint64_t bytes, MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  if (bytes_per_second_ != 0 && free_at_ > now) {
    return false;
  }
  (void)TakeLocked(bytes, now);
  return true;
}

absl::Duration RateLimiter::TakeLocked(uint64_t bytes, MonotonicTime now) {
  if (bytes_per_second_ == 0) {
    return absl::ZeroDuration();
  }
  free_at_ = std::max(free_at_, now - kBurst);
  const absl::Duration wait = std::max(free_at_ - now, absl::ZeroDuration());
  free_at_ += absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
  return wait;
}

absl::Duration RateLimiter::DelayAt(MonotonicTime now) {
  const absl::MutexLock lock(&mutex_);
  return bytes_per_second_ == 0 ? absl::ZeroDuration() : std::max(free_at_ - now, absl::ZeroDuration());
}

void RateLimiter::Correct(int64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  if (bytes_per_second_ != 0) {
    free_at_ += absl::Seconds(static_cast<double>(bytes) / static_cast<double>(bytes_per_second_));
  }
}

}  // namespace ferrite::migration
