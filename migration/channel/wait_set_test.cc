#include "migration/channel/wait_set.h"

#include <gtest/gtest.h>

#include <atomic>

#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

enum Tag : uint32_t { kFirst = 1, kSecond = 2, kThird = 4 };

class WaitSetTest : public testing::Test {
 protected:
  WaitSet set_ = *WaitSet::Create();
  EventFd first_ = *EventFd::Create();
  EventFd second_ = *EventFd::Create();
};

TEST_F(WaitSetTest, TagsOfAllThatHaveSomethingAreTold) {
  ASSERT_TRUE(set_.Add(first_.fd(), kFirst).ok());
  ASSERT_TRUE(set_.Add(second_.fd(), kSecond).ok());
  second_.Signal();
  EXPECT_EQ(*set_.Wait(), kSecond);
  first_.Signal();
  EXPECT_EQ(*set_.Wait(), kFirst | kSecond);
  ASSERT_TRUE(second_.Drain());
  EXPECT_EQ(*set_.Wait(), kFirst);
}

TEST_F(WaitSetTest, WaitEndsWithASignalOfAnotherThread) {
  ASSERT_TRUE(set_.Add(first_.fd(), kFirst).ok());
  Thread other = StartOrDie("test-signal", [&] { first_.Signal(); });
  EXPECT_EQ(*set_.Wait(), kFirst);
}

// As of a channel that has decrypted more than was asked for: its descriptor is quiet.
TEST_F(WaitSetTest, WhatWasReadAheadNeedsNoDescriptor) {
  ASSERT_TRUE(set_.Add(first_.fd(), kFirst).ok());
  bool has_something = true;
  set_.AddCheck([&] { return has_something; }, kThird);
  EXPECT_EQ(*set_.Wait(), kThird);
  first_.Signal();
  EXPECT_EQ(*set_.Wait(), kFirst | kThird);
  has_something = false;
  EXPECT_EQ(*set_.Wait(), kFirst);
}

TEST_F(WaitSetTest, WaitEndsByTheClockWhenNothingComes) {
  FakeClock clock;
  ASSERT_TRUE(set_.Add(first_.fd(), kFirst).ok());
  bool has_something = true;
  set_.AddCheck([&] { return has_something; }, kThird);
  EXPECT_EQ(*set_.WaitFor(clock, absl::Hours(1)), kThird);
  has_something = false;
  uint32_t tags = kSecond;
  Thread waiter = StartOrDie("test-wait", [&] { tags = *set_.WaitFor(clock, absl::Seconds(5)); });
  ASSERT_TRUE(clock.AwaitWaiting(1));
  clock.Advance(absl::Seconds(5));
  waiter.Join();
  EXPECT_EQ(tags, 0u);
  const MonotonicTime start = clock.Now();
  waiter = StartOrDie("test-wait", [&] { tags = *set_.WaitFor(clock, absl::Seconds(5)); });
  ASSERT_TRUE(clock.AwaitWaiting(1));
  first_.Signal();
  waiter.Join();
  EXPECT_EQ(tags, kFirst);
  EXPECT_EQ(clock.Now(), start);
}

TEST_F(WaitSetTest, WhatCannotBeWaitedForIsAnError) { EXPECT_FALSE(set_.Add(-1, kFirst).ok()); }

}  // namespace
}  // namespace ferrite::migration
