#include "migration/placing/request_queue.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/poll.h"
#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kRuns = 2000;

bool IsReadable(const RequestQueue& queue, absl::Duration limit = absl::ZeroDuration()) {
  pollfd polled{.fd = queue.event().fd(), .events = POLLIN, .revents = 0};
  return PollFor({&polled, 1}, limit) == 1;
}

class RequestQueueTest : public testing::Test {
 protected:
  // Two threads that put in kRuns each: runs of one page, of which each has regions of its own. `more` is done after
  // each of them.
  template <typename More>
  std::array<Thread, 2> StartPutting(const More& more) {
    const auto put = [this, more](uint16_t region) {
      for (uint64_t page = 0; page < kRuns; ++page) {
        queue_.Put({.region = region, .first = page, .count = 1});
        more(region, page);
      }
    };
    return {StartOrDie("first", [put] { put(0); }), StartOrDie("second", [put] { put(1); })};
  }
  void Count(const std::vector<PageRange>& runs) {
    for (const PageRange& run : runs) {
      ++taken_[run.region][run.first];
      ++all_;
    }
  }
  void ExpectEachOnce() const {
    EXPECT_EQ(all_, 2 * kRuns);
    EXPECT_EQ(taken_[0], std::vector<int>(kRuns, 1));
    EXPECT_EQ(taken_[1], std::vector<int>(kRuns, 1));
  }

  RequestQueue queue_ = *RequestQueue::Create();
  std::array<std::vector<int>, 2> taken_ = {std::vector<int>(kRuns), std::vector<int>(kRuns)};
  uint64_t all_ = 0;
};

TEST_F(RequestQueueTest, WhatIsPutInIsTakenOnceInOrder) {
  EXPECT_FALSE(IsReadable(queue_));
  EXPECT_TRUE(queue_.TakeAll().empty());
  const PageRange first{.region = 2, .first = 7, .count = 512};
  const PageRange second{.region = 0, .first = 1, .count = 1};
  queue_.Put(first);
  queue_.Put(second);
  EXPECT_TRUE(IsReadable(queue_));
  EXPECT_TRUE(IsReadable(queue_)) << "a look takes nothing";
  EXPECT_EQ(queue_.TakeAll(), (std::vector<PageRange>{first, second}));
  EXPECT_FALSE(IsReadable(queue_));
  EXPECT_TRUE(queue_.TakeAll().empty());
  queue_.Put(second);
  EXPECT_TRUE(IsReadable(queue_));
  EXPECT_EQ(queue_.TakeAll(), std::vector<PageRange>{second});
}

// Nobody is woken for nothing, and nothing lies there without a word of it: no later one makes up for it here.
TEST_F(RequestQueueTest, EventIsReadableWhileSomethingIsInThere) {
  std::atomic<uint64_t> rounds{0};  // that are over: both of it were taken
  const std::array<Thread, 2> threads = StartPutting([&](uint16_t, uint64_t page) { rounds.wait(page); });
  for (uint64_t round = 0; round < kRuns && !HasFailure(); ++round) {
    while (all_ < 2 * (round + 1) && !HasFailure()) {
      EXPECT_TRUE(IsReadable(queue_, absl::Seconds(30))) << all_;
      const std::vector<PageRange> runs = queue_.TakeAll();
      EXPECT_FALSE(runs.empty()) << all_;
      Count(runs);
    }
    EXPECT_FALSE(IsReadable(queue_)) << all_;
    ++rounds;
    rounds.notify_all();
  }
  // Both end in any case.
  rounds = ~uint64_t{0};
  rounds.notify_all();
  ExpectEachOnce();
}

TEST_F(RequestQueueTest, WhatTwoThreadsTakeIsInOneOfThem) {
  std::array<std::vector<PageRange>, 2> taken;
  for (Thread& thread : StartPutting([&](uint16_t index, uint64_t) {
         for (const PageRange& run : queue_.TakeAll()) {
           taken[index].push_back(run);
         }
       })) {
    thread.Join();
  }
  EXPECT_FALSE(IsReadable(queue_)) << "each has taken after its last";
  Count(taken[0]);
  Count(taken[1]);
  ExpectEachOnce();
}

}  // namespace
}  // namespace ferrite::migration
