#include "base/timed_mutex.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

constexpr absl::Duration kShort = absl::Milliseconds(20);
constexpr absl::Duration kLong = absl::Seconds(30);

TEST(MonotonicTimeTest, CountsAndCompares) {
  const MonotonicTime start = MonotonicTime::Now();
  const MonotonicTime later = start + absl::Seconds(1);
  EXPECT_EQ(later - start, absl::Seconds(1));
  EXPECT_EQ(later - absl::Seconds(1), start);
  EXPECT_LT(start, later);
  EXPECT_GE(later, start);
  EXPECT_LT(MonotonicTime::InfinitePast(), start);
  EXPECT_GT(MonotonicTime::InfiniteFuture(), later);
  EXPECT_EQ(start + absl::InfiniteDuration(), MonotonicTime::InfiniteFuture());
  EXPECT_EQ(MonotonicTime::InfiniteFuture() - start, absl::InfiniteDuration());
  EXPECT_GE(MonotonicTime::Now(), start);
}

struct Shared {
  TimedMutex mutex;
  int value ABSL_GUARDED_BY(mutex) = 0;

  void Set(int to) {
    const TimedMutexLock lock(&mutex);
    value = to;
  }
  // Waits until `value` is `wanted`.
  bool Await(int wanted, absl::Duration limit) {
    const TimedMutexLock lock(&mutex);
    const auto is = [this, wanted]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return value == wanted; };
    return mutex.AwaitFor(absl::Condition(&is), limit);
  }
};

TEST(TimedMutexTest, EndsAWaitAtItsTime) {
  Shared shared;
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_FALSE(shared.Await(1, kShort));
  EXPECT_GE(MonotonicTime::Now() - start, kShort);
}

TEST(TimedMutexTest, DoesNotWaitForWhatHoldsAlready) {
  Shared shared;
  EXPECT_TRUE(shared.Await(0, absl::ZeroDuration()));
  EXPECT_TRUE(shared.Await(0, -absl::InfiniteDuration()));
  EXPECT_FALSE(shared.Await(1, absl::ZeroDuration()));
  EXPECT_FALSE(shared.Await(1, -absl::InfiniteDuration()));
}

TEST(TimedMutexTest, WakesWhoeverCanGoOn) {
  Shared shared;
  Thread first = StartOrDie("first", [&] {
    EXPECT_TRUE(shared.Await(1, kLong));
    shared.Set(2);
  });
  Thread second = StartOrDie("second", [&] {
    EXPECT_TRUE(shared.Await(2, absl::InfiniteDuration()));
    shared.Set(3);
  });
  shared.Set(1);
  EXPECT_TRUE(shared.Await(3, kLong));
}

// To wait gives the mutex up as well as Unlock() does.
TEST(TimedMutexTest, WakesOthersWhenItBeginsToWait) {
  Shared shared;
  Thread other = StartOrDie("other", [&] {
    const TimedMutexLock lock(&shared.mutex);
    for (int round = 0; round < 100; ++round) {
      const auto odd = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared.mutex) { return shared.value % 2 == 1; };
      EXPECT_TRUE(shared.mutex.AwaitFor(absl::Condition(&odd), kLong));
      ++shared.value;
    }
  });
  {
    const TimedMutexLock lock(&shared.mutex);
    for (int round = 0; round < 100; ++round) {
      ++shared.value;
      const auto even = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(shared.mutex) { return shared.value % 2 == 0; };
      EXPECT_TRUE(shared.mutex.AwaitFor(absl::Condition(&even), kLong));
    }
    EXPECT_EQ(shared.value, 200);
  }
}

// As absl::Mutex allows it: the thread that made the condition true is still inside of Unlock().
TEST(TimedMutexTest, MayBeDestroyedByWhoWaited) {
  for (int i = 0; i < 200; ++i) {
    auto shared = std::make_unique<Shared>();
    Thread setter = StartOrDie("setter", [&there = *shared] { there.Set(1); });
    EXPECT_TRUE(shared->Await(1, kLong));
    shared.reset();
  }
}

TEST(TimedNotificationTest, TellsWhetherItHappenedInTime) {
  TimedNotification notification;
  EXPECT_FALSE(notification.WaitFor(kShort));
  Thread notifier = StartOrDie("notifier", [&] { notification.Notify(); });
  EXPECT_TRUE(notification.WaitFor(kLong));
  EXPECT_TRUE(notification.WaitFor(absl::ZeroDuration()));
}

}  // namespace
}  // namespace ferrite
