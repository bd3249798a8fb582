#include "base/run_delay.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/monotonic.h"
#include "base/thread.h"

namespace ferrite {
namespace {

constexpr absl::Duration kLong = absl::Seconds(60);

// The processors that this process may use, of which only one is used in here.
int OneProcessor() {
  cpu_set_t allowed;
  EXPECT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) {
      return i;
    }
  }
  return -1;
}

void UseOnly(int processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
}

// Two threads that never rest, on one processor: each waits for the other.
class RunDelayTest : public testing::Test {
 protected:
  RunDelayTest() {
    const int processor = OneProcessor();
    for (int i = 0; i < 2; ++i) {
      auto thread = Thread::Start("busy", [this, processor, i] {
        UseOnly(processor);
        threads_[i] = gettid();
        while (!stop_) {
        }
      });
      EXPECT_TRUE(thread.ok()) << thread.status();
      busy_[i] = *std::move(thread);
    }
    while (threads_[0] == 0 || threads_[1] == 0) {
      sched_yield();
    }
  }
  ~RunDelayTest() override { stop_ = true; }

  // Whether `grows` in time.
  template <typename Grows>
  static bool Await(Grows grows) {
    const MonotonicTime deadline = MonotonicTime::Now() + kLong;
    while (!grows()) {
      if (MonotonicTime::Now() > deadline) {
        return false;
      }
      sched_yield();
    }
    return true;
  }

  std::atomic<bool> stop_{false};
  std::atomic<pid_t> threads_[2] = {0, 0};
  Thread busy_[2];
};

TEST_F(RunDelayTest, GrowsWhileAnotherThreadHasTheProcessor) {
  const RunDelay delay(threads_[0]);
  const absl::Duration before = delay.Read();
  EXPECT_TRUE(Await([&] { return delay.Read() > before; }));
}

TEST_F(RunDelayTest, SeveralCountFromNowOnAndTheLongestWaitOnce) {
  const RunDelay delays[2] = {RunDelay(threads_[0]), RunDelay(threads_[1])};
  ASSERT_TRUE(
      Await([&] { return delays[0].Read() > absl::ZeroDuration() && delays[1].Read() > absl::ZeroDuration(); }));
  const absl::Duration before[2] = {delays[0].Read(), delays[1].Read()};
  const RunDelays both(/*worker=*/-1, {threads_[0], threads_[1]});
  ASSERT_TRUE(Await([&] { return delays[0].Read() > before[0] && delays[1].Read() > before[1]; }));
  const absl::Duration waited = both.Read();
  EXPECT_GT(waited, absl::ZeroDuration());
  EXPECT_LE(waited, std::max(delays[0].Read() - before[0], delays[1].Read() - before[1]));
}

TEST_F(RunDelayTest, WorkerCountsToo) {
  const RunDelays worker(threads_[0], {});
  EXPECT_TRUE(Await([&] { return worker.Read() > absl::ZeroDuration(); }));
}

TEST(RunDelaysTest, ThreadThatThereIsNotWaitsForNothing) {
  const RunDelay none(-1);
  EXPECT_EQ(none.Read(), absl::ZeroDuration());
}

}  // namespace
}  // namespace ferrite
