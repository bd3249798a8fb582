#include "base/timed_mutex.h"

#include <chrono>

namespace ferrite {

// The analysis does not know std::mutex.
void TimedMutex::Lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }

void TimedMutex::Unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  // Before it is given up: who waits for the condition may then end this object.
  if (waiters_ > 0) {
    given_up_.notify_all();
  }
  mutex_.unlock();
}

void TimedMutex::Await(const absl::Condition& condition) { AwaitUntil(condition, MonotonicTime::InfiniteFuture()); }

bool TimedMutex::AwaitUntil(const absl::Condition& condition, MonotonicTime deadline) {
  if (condition.Eval()) {
    return true;
  }
  // To wait is to give the mutex up, too: with what the caller changed, others may go on.
  if (waiters_ > 0) {
    given_up_.notify_all();
  }
  // On Linux the steady clock is CLOCK_MONOTONIC, and libstdc++ waits for it by pthread_cond_clockwait(3).
  const std::chrono::steady_clock::time_point until{absl::ToChronoNanoseconds(deadline.since_origin())};
  std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
  ++waiters_;
  bool met = false;
  bool late = false;
  while (!met && !late) {
    if (deadline == MonotonicTime::InfiniteFuture()) {
      given_up_.wait(lock);
    } else {
      late = given_up_.wait_until(lock, until) == std::cv_status::timeout;
    }
    met = condition.Eval();
  }
  --waiters_;
  lock.release();
  return met;
}

bool TimedMutex::AwaitFor(const absl::Condition& condition, absl::Duration limit) {
  return AwaitUntil(condition, MonotonicTime::Now() + limit);
}

void TimedNotification::Notify() {
  const TimedMutexLock lock(&mutex_);
  notified_ = true;
}

bool TimedNotification::WaitFor(absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(absl::Condition(&notified_), limit);
}

}  // namespace ferrite
