// Who tells the time: the host, or a test (tests/fakes/fake_clock.h).
#ifndef FERRITE_BASE_CLOCK_H_
#define FERRITE_BASE_CLOCK_H_

#include <poll.h>

#include <condition_variable>
#include <mutex>
#include <span>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite {

// A monotonic clock, and the two ways of waiting by it. TimedMutex, TimedNotification and CancelToken take one for
// their waits. Threads: any.
class Clock {
 public:
  virtual ~Clock() = default;

  virtual MonotonicTime Now() const = 0;
  // For TimedMutex: gives `lock` up until `woken` is notified, the deadline has come, or for no reason. Whether there
  // is time left.
  virtual bool WaitUntil(std::condition_variable& woken, std::unique_lock<std::mutex>& lock,
                         MonotonicTime deadline) const = 0;
  // As PollFor() of base/poll.h.
  virtual int PollFor(std::span<pollfd> polled, absl::Duration limit) const = 0;
};

// CLOCK_MONOTONIC. Its waits take no memory.
const Clock& RealClock();

}  // namespace ferrite

#endif  // FERRITE_BASE_CLOCK_H_
