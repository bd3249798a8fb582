// The monotonic clock: the one for durations, deadlines, rates and ages. Nobody sets it, and it has the same origin in
// all processes of a host.
#ifndef FERRITE_BASE_MONOTONIC_H_
#define FERRITE_BASE_MONOTONIC_H_

#include <cstdint>
#include <ctime>

#include "absl/time/time.h"

namespace ferrite {

// CLOCK_MONOTONIC in ns.
inline int64_t MonotonicNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// A point of that clock; its origin by default. absl::Time is for what is shown to people as a date.
class MonotonicTime {
 public:
  constexpr MonotonicTime() = default;

  static MonotonicTime Now() { return MonotonicTime(absl::Nanoseconds(MonotonicNs())); }
  // Before and after all others.
  static constexpr MonotonicTime InfinitePast() { return MonotonicTime(-absl::InfiniteDuration()); }
  static constexpr MonotonicTime InfiniteFuture() { return MonotonicTime(absl::InfiniteDuration()); }

  constexpr absl::Duration since_origin() const { return since_origin_; }

  MonotonicTime& operator+=(absl::Duration duration) {
    since_origin_ += duration;
    return *this;
  }
  MonotonicTime& operator-=(absl::Duration duration) {
    since_origin_ -= duration;
    return *this;
  }

  friend MonotonicTime operator+(MonotonicTime time, absl::Duration duration) { return time += duration; }
  friend MonotonicTime operator-(MonotonicTime time, absl::Duration duration) { return time -= duration; }
  friend absl::Duration operator-(MonotonicTime a, MonotonicTime b) { return a.since_origin_ - b.since_origin_; }
  friend constexpr bool operator==(MonotonicTime a, MonotonicTime b) { return a.since_origin_ == b.since_origin_; }
  friend constexpr bool operator!=(MonotonicTime a, MonotonicTime b) { return !(a == b); }
  friend constexpr bool operator<(MonotonicTime a, MonotonicTime b) { return a.since_origin_ < b.since_origin_; }
  friend constexpr bool operator>(MonotonicTime a, MonotonicTime b) { return b < a; }
  friend constexpr bool operator<=(MonotonicTime a, MonotonicTime b) { return !(b < a); }
  friend constexpr bool operator>=(MonotonicTime a, MonotonicTime b) { return !(a < b); }

 private:
  explicit constexpr MonotonicTime(absl::Duration since_origin) : since_origin_(since_origin) {}

  absl::Duration since_origin_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_MONOTONIC_H_
