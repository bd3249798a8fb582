#include "base/clock.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <string>
#include <vector>

#include "base/cancel_token.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(20);
constexpr absl::Duration kHour = absl::Hours(1);

TEST(RealClockTest, IsTheHosts) {
  const MonotonicTime start = MonotonicTime::Now();
  TimedNotification never;
  EXPECT_FALSE(never.WaitFor(RealClock(), kShort));
  EXPECT_GE(RealClock().Now() - start, kShort);
  EXPECT_EQ(RealClock().PollFor({}, kShort), 0);
  EXPECT_GE(MonotonicTime::Now() - start, 2 * kShort);
}

class FakeClockTest : public ::testing::Test {
 protected:
  // An hour passes while `wait` does, and not before: the end of its wait is what it returns.
  void EndsAfterAnHour(std::function<void()> wait) {
    const MonotonicTime start = clock_.Now();
    std::atomic<bool> over{false};
    Thread waiter = StartOrDie("test-wait", [&] {
      wait();
      over = true;
    });
    ASSERT_TRUE(clock_.AwaitWaiting(1));
    clock_.Advance(kHour - absl::Nanoseconds(1));
    EXPECT_EQ(clock_.waiting(), 1);
    EXPECT_FALSE(over);
    clock_.Advance(absl::Nanoseconds(1));
    EXPECT_EQ(clock_.waiting(), 0) << "it was woken";
    waiter.Join();
    EXPECT_EQ(clock_.Now() - start, kHour);
  }

  FakeClock clock_;
  TimedNotification notification_;
  CancelToken token_ = *CancelToken::Create();
  EventFd event_ = *EventFd::Create();
  pollfd polled_{.fd = event_.fd(), .events = POLLIN, .revents = 0};
};

TEST_F(FakeClockTest, StandsStill) {
  const MonotonicTime start = clock_.Now();
  EXPECT_FALSE(notification_.WaitFor(kShort));
  EXPECT_EQ(clock_.Now(), start);
}

TEST_F(FakeClockTest, EndsTheWaitForACondition) {
  EndsAfterAnHour([&] { EXPECT_FALSE(notification_.WaitFor(clock_, kHour)); });
}

TEST_F(FakeClockTest, EndsTheWaitForACancel) {
  EndsAfterAnHour([&] { EXPECT_FALSE(token_.WaitFor(clock_, kHour)); });
}

TEST_F(FakeClockTest, EndsTheWaitForADescriptor) {
  EndsAfterAnHour([&] { EXPECT_EQ(clock_.PollFor({&polled_, 1}, kHour), 0); });
  EXPECT_EQ(polled_.revents, 0);
  // Nothing is left of it for the next one.
  EndsAfterAnHour([&] { EXPECT_EQ(clock_.PollFor({}, kHour), 0); });
}

TEST_F(FakeClockTest, EndsNoWaitForWhatIsThere) {
  notification_.Notify();
  token_.Cancel(absl::CancelledError("why"));
  event_.Signal();
  EXPECT_TRUE(notification_.WaitFor(clock_, kHour));
  EXPECT_TRUE(token_.WaitFor(clock_, absl::InfiniteDuration()));
  EXPECT_EQ(clock_.PollFor({&polled_, 1}, kHour), 1);
  EXPECT_EQ(polled_.revents, POLLIN);
}

TEST_F(FakeClockTest, WakesForWhatComesInTime) {
  Thread waiter = StartOrDie("test-wait", [&] {
    EXPECT_TRUE(notification_.WaitFor(clock_, kHour));
    EXPECT_TRUE(token_.WaitFor(clock_, kHour));
    EXPECT_EQ(clock_.PollFor({&polled_, 1}, kHour), 1);
    EXPECT_EQ(polled_.revents, POLLIN);
  });
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  notification_.Notify();
  token_.Cancel(absl::CancelledError("why"));
  event_.Signal();
  waiter.Join();
  EXPECT_EQ(clock_.waiting(), 0);
}

// As poll(2): what is there when time is over is told.
TEST_F(FakeClockTest, TellsOfWhatCameBeforeTheTimeWasOver) {
  for (int i = 0; i < 500; ++i) {
    Thread waiter = StartOrDie("test-wait", [&] {
      const MonotonicTime deadline = clock_.Now() + kHour;
      const int ready = clock_.PollFor({&polled_, 1}, kHour);
      EXPECT_TRUE(ready == 1 || clock_.Now() < deadline) << "it came before the hour was over";
    });
    sched_yield();
    event_.Signal();
    clock_.Advance(kHour);
    waiter.Join();
    event_.Drain();
  }
}

TEST_F(FakeClockTest, DoesNotWaitForATimeThatHasCome) {
  EXPECT_FALSE(notification_.WaitFor(clock_, absl::ZeroDuration()));
  EXPECT_FALSE(notification_.WaitFor(clock_, -absl::InfiniteDuration()));
  EXPECT_EQ(clock_.PollFor({&polled_, 1}, -absl::InfiniteDuration()), 0);
}

TEST_F(FakeClockTest, WaitsOfDifferentLengthEndInTheirOrder) {
  std::vector<int> ended;
  absl::Mutex mutex;
  std::vector<Thread> waiters;
  for (int hours = 1; hours <= 4; ++hours) {
    waiters.push_back(StartOrDie("test-wait", [&, hours] {
      pollfd none{.fd = -1, .events = POLLIN, .revents = 0};
      if (hours % 2 == 0) {
        EXPECT_FALSE(token_.WaitFor(clock_, hours * kHour));
      } else {
        EXPECT_EQ(clock_.PollFor({&none, 1}, hours * kHour), 0);
      }
      const absl::MutexLock lock(&mutex);
      ended.push_back(hours);
    }));
  }
  ASSERT_TRUE(clock_.AwaitWaiting(4));
  for (Thread& waiter : waiters) {
    clock_.Advance(kHour);
    waiter.Join();
  }
  EXPECT_EQ(ended, std::vector<int>({1, 2, 3, 4}));
}

// For lost wake-ups, and for the thread sanitizer: time jumps as soon as somebody has said until when it waits, whose
// thread may be anywhere between that and its wait; half of them are woken by each other besides.
TEST_F(FakeClockTest, LosesNoWakeUp) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 500;
  std::atomic<int> over{0};
  TimedMutex mutex;
  bool never = false;
  std::vector<Thread> waiters;
  for (int i = 0; i < kThreads; ++i) {
    waiters.push_back(StartOrDie("test-wait", [&, i] {
      for (int round = 0; round < kRounds; ++round) {
        const MonotonicTime deadline = clock_.Now() + kHour;
        if (i % 2 == 0) {
          const TimedMutexLock lock(&mutex);
          EXPECT_FALSE(mutex.AwaitUntil(clock_, absl::Condition(&never), deadline));
        } else {
          while (clock_.Now() < deadline) {
            (void)clock_.PollFor({}, deadline - clock_.Now());
          }
        }
        EXPECT_GE(clock_.Now(), deadline);
      }
      ++over;
    }));
  }
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_TRUE(clock_.PassUntil([&] { return over == kThreads; }));
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(30)) << "it waits for the host's time";
}

// As after any wait: the mutex may go as soon as nobody waits.
TEST_F(FakeClockTest, IsDoneWithAMutexWhenTheWaitEnds) {
  for (int i = 0; i < 200; ++i) {
    Thread waiter = StartOrDie("test-wait", [&] { EXPECT_FALSE(TimedNotification().WaitFor(clock_, kHour)); });
    ASSERT_TRUE(clock_.AwaitWaiting(1));
    clock_.Advance(kHour);
  }
}

TEST_F(FakeClockTest, PassesFromDeadlineToDeadline) {
  std::atomic<int> minutes{0};
  Thread waiter = StartOrDie("test-wait", [&] {
    while (minutes < 60) {
      EXPECT_FALSE(token_.WaitFor(clock_, absl::Minutes(1)));
      ++minutes;
    }
  });
  const MonotonicTime start = clock_.Now();
  EXPECT_TRUE(clock_.PassUntil([&] { return minutes == 60; }));
  EXPECT_EQ(clock_.Now() - start, kHour);
}

}  // namespace
}  // namespace ferrite
