// A mutex whose waits can end at a time of a monotonic clock. absl's timed waits end by the wall clock, also those that
// are given a duration: when that is set back, they stand still.
#ifndef FERRITE_BASE_TIMED_MUTEX_H_
#define FERRITE_BASE_TIMED_MUTEX_H_

#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/monotonic.h"

namespace ferrite {

// As absl::Mutex: who gives the mutex up wakes those whose condition may hold now, and may then find the mutex
// destroyed. Each of them is woken for it, so this is for a mutex that few wait at and that is not taken for every page
// or request.
//
// Threads: any.
class ABSL_LOCKABLE TimedMutex {
 public:
  TimedMutex() = default;
  TimedMutex(const TimedMutex&) = delete;
  TimedMutex& operator=(const TimedMutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION();
  void Unlock() ABSL_UNLOCK_FUNCTION();
  // For the analysis alone.
  void AssertHeld() const ABSL_ASSERT_EXCLUSIVE_LOCK() {}

  // Gives the mutex up until `condition` holds.
  void Await(const absl::Condition& condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this);
  // The same, or until the time has come. Whether the condition holds.
  bool AwaitUntil(const Clock& clock, const absl::Condition& condition, MonotonicTime deadline)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this);
  bool AwaitFor(const Clock& clock, const absl::Condition& condition, absl::Duration limit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(this);
  // By the host's clock.
  bool AwaitUntil(const absl::Condition& condition, MonotonicTime deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    return AwaitUntil(RealClock(), condition, deadline);
  }
  bool AwaitFor(const absl::Condition& condition, absl::Duration limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    return AwaitFor(RealClock(), condition, limit);
  }

 private:
  std::mutex mutex_;
  std::condition_variable given_up_;
  int waiters_ = 0;  // guarded by mutex_
};

class ABSL_SCOPED_LOCKABLE TimedMutexLock {
 public:
  explicit TimedMutexLock(TimedMutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(*mutex) { mutex_.Lock(); }
  ~TimedMutexLock() ABSL_UNLOCK_FUNCTION() { mutex_.Unlock(); }
  TimedMutexLock(const TimedMutexLock&) = delete;
  TimedMutexLock& operator=(const TimedMutexLock&) = delete;

 private:
  TimedMutex& mutex_;
};

// Something that happens once. As absl::Notification; who waited may destroy it at once.
class TimedNotification {
 public:
  void Notify();
  // Whether it happened within `limit`.
  bool WaitFor(const Clock& clock, absl::Duration limit);
  bool WaitFor(absl::Duration limit) { return WaitFor(RealClock(), limit); }

 private:
  TimedMutex mutex_;
  bool notified_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_TIMED_MUTEX_H_
