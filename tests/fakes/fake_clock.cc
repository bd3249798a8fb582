#include "tests/fakes/fake_clock.h"

#include <algorithm>
#include <utility>

#include "base/poll.h"
#include "base/status.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

// Of the host's time.
constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr absl::Duration kLook = absl::Milliseconds(1);

}  // namespace

FakeClock::FakeClock() {
  // Some threads may wait when no more can be made.
  std::vector<EventFd> events;
  for (int i = 0; i < 8; ++i) {
    events.push_back(TakeEvent());
  }
  const TimedMutexLock lock(&mutex_);
  events_ = std::move(events);
}

FakeClock::~FakeClock() {
  const TimedMutexLock lock(&mutex_);
  FERRITE_CHECK(waiting_.empty());
}

void FakeClock::Advance(absl::Duration time) {
  const TimedMutexLock lock(&mutex_);
  now_ += time;
  WakeDue();
}

size_t FakeClock::waiting() const {
  const TimedMutexLock lock(&mutex_);
  return waiting_.size();
}

bool FakeClock::AwaitWaiting(size_t count) const {
  const auto wait = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_.size() >= count; };
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(absl::Condition(&wait), kPatience);
}

bool FakeClock::PassUntil(const std::function<bool()>& done, size_t waiters, absl::Duration stride) {
  FERRITE_CHECK(waiters > 0);
  const auto wait = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_.size() >= waiters; };
  const auto earlier = [](const Waiter* a, const Waiter* b) { return a->deadline < b->deadline; };
  const TimedMutexLock lock(&mutex_);
  for (MonotonicTime last = MonotonicTime::Now(); MonotonicTime::Now() < last + kPatience;) {
    const bool enough = mutex_.AwaitFor(absl::Condition(&wait), kLook);
    // Asked when somebody was seen to wait, and nobody can begin to: who waits for what it tells of is not woken.
    if (done()) {
      return true;
    }
    if (enough) {
      now_ = std::max(now_ + stride, (*std::min_element(waiting_.begin(), waiting_.end(), earlier))->deadline);
      WakeDue();
      last = MonotonicTime::Now();
    }
  }
  return false;
}

MonotonicTime FakeClock::Now() const {
  const TimedMutexLock lock(&mutex_);
  return now_;
}

bool FakeClock::WaitUntil(std::condition_variable& woken, std::unique_lock<std::mutex>& lock,
                          MonotonicTime deadline) const {
  // Woken under its lock: between a look at the time and the wait nothing is missed.
  Waiter waiter{.deadline = deadline, .wake = [&woken, mutex = lock.mutex()] {
                  const std::scoped_lock<std::mutex> held(*mutex);
                  woken.notify_all();
                }};
  if (Enter(waiter)) {
    woken.wait(lock);
  }
  lock.unlock();
  const bool in_time = Leave(waiter);
  lock.lock();
  return in_time;
}

int FakeClock::PollFor(std::span<pollfd> polled, absl::Duration limit) const {
  const Plenty plenty;
  const MonotonicTime deadline = Now() + limit;
  // What is there needs no waiter, for whom time might pass.
  const int ready = ferrite::PollFor(polled, absl::ZeroDuration());
  if (ready > 0 || limit <= absl::ZeroDuration()) {
    return ready;
  }
  EventFd event = TakeEvent();
  std::vector<pollfd> all(polled.begin(), polled.end());
  all.push_back({.fd = event.fd(), .events = POLLIN, .revents = 0});
  Waiter waiter{.deadline = deadline, .wake = [&event] { event.Signal(); }};
  if (Enter(waiter)) {
    (void)ferrite::PollFor(all, absl::InfiniteDuration());
  }
  Leave(waiter);
  (void)event.Drain();
  {
    const TimedMutexLock lock(&mutex_);
    events_.push_back(std::move(event));
  }
  // What came before the time was over is there.
  return ferrite::PollFor(polled, absl::ZeroDuration());
}

bool FakeClock::Enter(Waiter& waiter) const {
  const Plenty plenty;
  const TimedMutexLock lock(&mutex_);
  if (waiter.deadline <= now_) {
    return false;
  }
  if (waiter.deadline != MonotonicTime::InfiniteFuture()) {
    waiting_.push_back(&waiter);
  }
  return true;
}

bool FakeClock::Leave(Waiter& waiter) const {
  const auto left_alone = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !waiter.is_woken; };
  const TimedMutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&left_alone));
  waiting_.erase(std::remove(waiting_.begin(), waiting_.end(), &waiter), waiting_.end());
  return waiter.deadline > now_;
}

void FakeClock::WakeDue() {
  while (true) {
    const auto due = std::find_if(waiting_.begin(), waiting_.end(),
                                  [now = now_](const Waiter* waiter) { return waiter->deadline <= now; });
    if (due == waiting_.end()) {
      return;
    }
    Waiter& waiter = **due;
    waiting_.erase(due);
    waiter.is_woken = true;
    // It holds its own lock when it takes this one.
    mutex_.Unlock();
    waiter.wake();
    mutex_.Lock();
    waiter.is_woken = false;
  }
}

EventFd FakeClock::TakeEvent() const {
  {
    const TimedMutexLock lock(&mutex_);
    if (!events_.empty()) {
      EventFd event = std::move(events_.back());
      events_.pop_back();
      return event;
    }
  }
  absl::StatusOr<EventFd> event = EventFd::Create();
  FERRITE_CHECK(event.ok());
  return *std::move(event);
}

}  // namespace ferrite
