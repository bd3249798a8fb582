#include "migration/sending/bulk_size.h"

#include <algorithm>

namespace ferrite::migration {
namespace {

double Rate(uint64_t bytes, absl::Duration took) { return static_cast<double>(bytes) / absl::ToDoubleSeconds(took); }

}  // namespace

uint64_t BulkSize::pages() const {
  const absl::MutexLock lock(&mutex_);
  return phase_ == Phase::kSmall ? small_ : kMost;
}

void BulkSize::Sent(absl::Duration delay, uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  const MonotonicTime now = clock_.Now();
  if (!from_.has_value()) {
    Begin(Phase::kSmall, now, bytes);
  }
  const absl::Duration took = now - *from_;
  const bool enough = ++claims_ >= trial_claims_;
  switch (phase_) {
    case Phase::kSmall:
      Adapt(delay, now);
      if (small_ >= kFirst) {
        Begin(Phase::kSmall, now, bytes);
      } else if (enough && took >= small_for_) {
        small_rate_ = Rate(bytes - from_bytes_, took);
        Begin(Phase::kSettling, now, bytes);
      }
      break;
    case Phase::kSettling:
      if (enough && took >= kTrial) {
        Begin(Phase::kTrying, now, bytes);
      }
      break;
    case Phase::kTrying:
      if (!enough || took < kTrial) {
        break;
      }
      if (small_rate_ < kWorth * Rate(bytes - from_bytes_, took)) {
        Begin(Phase::kLarge, now, bytes);
        small_for_ = kFirstSmall;
      } else {
        Begin(Phase::kSmall, now, bytes);
        small_for_ = std::min(std::max(2 * small_for_, 20 * took), kLongest);
        large_for_ = kFirstLarge;
      }
      break;
    case Phase::kLarge:
      if (took >= large_for_) {
        Begin(Phase::kSmall, now, bytes);
        large_for_ = std::min(2 * large_for_, kLongest);
      }
      break;
  }
}

void BulkSize::Adapt(absl::Duration delay, MonotonicTime now) {
  if (now < due_) {
    return;
  }
  due_ = now + kAim + delay;
  if (delay <= kAim) {
    small_ = std::min(small_ + small_ / 4 + 1, kMost);
    return;
  }
  // What was measured is of larger claims, and of some time ago: no more than half at once.
  const double ratio = std::max(absl::FDivDuration(kAim, delay), 0.5);
  small_ = std::max(static_cast<uint64_t>(static_cast<double>(small_) * ratio), kLeast);
}

void BulkSize::Begin(Phase phase, MonotonicTime now, uint64_t bytes) {
  phase_ = phase;
  from_ = now;
  from_bytes_ = bytes;
  claims_ = 0;
}

}  // namespace ferrite::migration
