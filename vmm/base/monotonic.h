// The monotonic clock, which has the same origin in all processes of a host.
#ifndef FERRITE_VMM_BASE_MONOTONIC_H_
#define FERRITE_VMM_BASE_MONOTONIC_H_

#include <cstdint>
#include <ctime>

namespace ferrite {

// CLOCK_MONOTONIC in ns.
inline int64_t MonotonicNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace ferrite

#endif  // FERRITE_VMM_BASE_MONOTONIC_H_
