#include "base/clock.h"

#include <chrono>

#include "base/poll.h"

namespace ferrite {
namespace {

class HostClock final : public Clock {
 public:
  constexpr HostClock() = default;

  MonotonicTime Now() const override { return MonotonicTime::Now(); }

  bool WaitUntil(std::condition_variable& woken, std::unique_lock<std::mutex>& lock,
                 MonotonicTime deadline) const override {
    if (deadline == MonotonicTime::InfiniteFuture()) {
      woken.wait(lock);
      return true;
    }
    // On Linux the steady clock is CLOCK_MONOTONIC, and libstdc++ waits for it by pthread_cond_clockwait(3).
    const std::chrono::steady_clock::time_point until{absl::ToChronoNanoseconds(deadline.since_origin())};
    return woken.wait_until(lock, until) == std::cv_status::no_timeout;
  }

  int PollFor(std::span<pollfd> polled, absl::Duration limit) const override { return ferrite::PollFor(polled, limit); }
};

}  // namespace

const Clock& RealClock() {
  static const HostClock& clock = *new HostClock;
  return clock;
}

}  // namespace ferrite
