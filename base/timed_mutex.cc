#include "base/timed_mutex.h"

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

void TimedMutex::Await(const absl::Condition& condition) {
  AwaitUntil(RealClock(), condition, MonotonicTime::InfiniteFuture());
}

bool TimedMutex::AwaitUntil(const Clock& clock, const absl::Condition& condition, MonotonicTime deadline) {
  if (condition.Eval()) {
    return true;
  }
  // To wait is to give the mutex up, too: with what the caller changed, others may go on.
  if (waiters_ > 0) {
    given_up_.notify_all();
  }
  std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
  ++waiters_;
  bool met = false;
  bool late = false;
  while (!met && !late) {
    late = !clock.WaitUntil(given_up_, lock, deadline);
    met = condition.Eval();
  }
  --waiters_;
  lock.release();
  return met;
}

bool TimedMutex::AwaitFor(const Clock& clock, const absl::Condition& condition, absl::Duration limit) {
  return AwaitUntil(clock, condition, clock.Now() + limit);
}

void TimedNotification::Notify() {
  const TimedMutexLock lock(&mutex_);
  notified_ = true;
}

bool TimedNotification::WaitFor(const Clock& clock, absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(clock, absl::Condition(&notified_), limit);
}

}  // namespace ferrite
