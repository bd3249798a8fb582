// Time that passes when the test says so.
#ifndef FERRITE_TESTS_FAKES_FAKE_CLOCK_H_
#define FERRITE_TESTS_FAKES_FAKE_CLOCK_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"

namespace ferrite {

// A clock that stands still until a test moves it. Who waits by it wakes when its deadline has been reached, or, as by
// any clock, for what it waits for, which is as real as ever. What a wait takes of the host is the test's own (Plenty).
//
// Threads: any. A test that moves it holds no lock that somebody waits at.
class FakeClock final : public Clock {
 public:
  FakeClock();
  // Nobody waits any more.
  ~FakeClock() override;

  // Whose time has come was told when this returns, and counts as waiting only when it waits anew.
  void Advance(absl::Duration time);
  // How many wait for a time of this clock.
  size_t waiting() const;
  // Waits, at most 30 s of the host's, until so many do. Whether they do.
  bool AwaitWaiting(size_t count) const;
  // Lets time pass until `done` holds: to the next deadline, and by `stride` at least, whenever `waiters` wait. These
  // are all threads that would wait for the clock if they had nothing else to do: a thread that has may find that it is
  // late. False when nothing came of it in 30 s of the host's. `done` asks nothing of this clock.
  bool PassUntil(const std::function<bool()>& done, size_t waiters = 1, absl::Duration stride = absl::ZeroDuration());

  MonotonicTime Now() const override;
  bool WaitUntil(std::condition_variable& woken, std::unique_lock<std::mutex>& lock,
                 MonotonicTime deadline) const override;
  int PollFor(std::span<pollfd> polled, absl::Duration limit) const override;

 private:
  struct Waiter {
    const MonotonicTime deadline;
    const std::function<void()> wake;
    bool is_woken = false;  // just now: it does not go away
  };

  // False when the deadline has come; Leave() is called in any case.
  bool Enter(Waiter& waiter) const;
  // Whether there is time left. Called without the lock that `wake` takes.
  bool Leave(Waiter& waiter) const;
  void WakeDue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  EventFd TakeEvent() const;

  mutable TimedMutex mutex_;
  MonotonicTime now_ ABSL_GUARDED_BY(mutex_) = MonotonicTime() + absl::Hours(1);
  mutable std::vector<Waiter*> waiting_ ABSL_GUARDED_BY(mutex_);
  mutable std::vector<EventFd> events_ ABSL_GUARDED_BY(mutex_);  // that nobody polls just now
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_CLOCK_H_
