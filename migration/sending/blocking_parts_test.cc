// How long a writer waits at the most, in time that passes when the test says so.
#include "migration/sending/blocking_parts.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread_maker.h"
#include "base/timed_mutex.h"
#include "migration/sending/outgoing_part.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kLong = BlockingParts::kMostHeld;

// Has writers that wait since the times that a test says. Threads: any.
class Held final : public OutgoingPart {
 public:
  explicit Held(bool can_block = true) : can_block_(can_block) {}

  absl::string_view name() const override { return "held"; }
  std::vector<MachineSpec::Region> regions() const override { return {}; }
  absl::Status StartTracking() override { return absl::OkStatus(); }
  void StopTracking() override {}
  absl::Status CollectDirty(size_t, PageBitmap&) override { return absl::OkStatus(); }
  absl::Status AddSkipped(size_t, PageBitmap&) override { return absl::OkStatus(); }
  absl::Status Send(PageSender&, size_t, const PageRange&, uint64_t) override { return absl::OkStatus(); }
  bool SetBlocking(bool on) override {
    const TimedMutexLock lock(&mutex_);
    blocking_ = on && can_block_;
    ++switches_;
    return can_block_;
  }
  void Delivered() override {
    const TimedMutexLock lock(&mutex_);
    ++deliveries_;
  }
  MonotonicTime LetGo(MonotonicTime since) override {
    const TimedMutexLock lock(&mutex_);
    EXPECT_TRUE(blocking_) << "it is touched when that is over";
    ++looks_;
    while (!waiting_.empty() && waiting_.front() <= since) {
      waiting_.erase(waiting_.begin());
    }
    return waiting_.empty() ? MonotonicTime::InfiniteFuture() : waiting_.front();
  }

  void Hold(MonotonicTime since) {
    const TimedMutexLock lock(&mutex_);
    waiting_.push_back(since);
  }
  size_t waiting() const {
    const TimedMutexLock lock(&mutex_);
    return waiting_.size();
  }
  int looks() const {
    const TimedMutexLock lock(&mutex_);
    return looks_;
  }
  int switches() const {
    const TimedMutexLock lock(&mutex_);
    return switches_;
  }
  int deliveries() const {
    const TimedMutexLock lock(&mutex_);
    return deliveries_;
  }
  bool blocking() const {
    const TimedMutexLock lock(&mutex_);
    return blocking_;
  }

 private:
  const bool can_block_;
  mutable TimedMutex mutex_;
  bool blocking_ ABSL_GUARDED_BY(mutex_) = false;
  int looks_ ABSL_GUARDED_BY(mutex_) = 0;
  int switches_ ABSL_GUARDED_BY(mutex_) = 0;
  int deliveries_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<MonotonicTime> waiting_ ABSL_GUARDED_BY(mutex_);
};

class BlockingPartsTest : public testing::Test {
 protected:
  void Start() {
    ASSERT_EQ(parts_.Start().ToString(), "OK");
    ASSERT_TRUE(parts_.empty());
    ASSERT_TRUE(parts_.Add(first_));
    ASSERT_FALSE(parts_.empty());
    ASSERT_TRUE(clock_.AwaitWaiting(1)) << "it sleeps between two looks";
  }
  // Who waits for the clock has looked when it waits again.
  void Pass(absl::Duration time) {
    clock_.Advance(time);
    ASSERT_TRUE(clock_.AwaitWaiting(1));
  }

  FakeClock clock_;
  TestHost host_{clock_};
  Held first_;
  Held second_;
  BlockingParts parts_{host_.get()};
};

TEST_F(BlockingPartsTest, NobodyWaitsForLonger) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(parts_.Add(second_));
  Pass(kLong * 3 / 10);
  first_.Hold(clock_.Now());
  Pass(kLong * 4 / 10);
  second_.Hold(clock_.Now());
  first_.Hold(clock_.Now());
  Pass(kLong * 59 / 100);
  EXPECT_EQ(first_.waiting(), 2u);
  Pass(kLong / 100);
  EXPECT_EQ(first_.waiting(), 1u) << "its time has come, and not that of the others";
  EXPECT_EQ(second_.waiting(), 1u);
  Pass(kLong * 39 / 100);
  EXPECT_EQ(first_.waiting() + second_.waiting(), 2u);
  Pass(kLong / 100);
  EXPECT_EQ(first_.waiting() + second_.waiting(), 0u);
  EXPECT_EQ(first_.switches(), 1) << "who writes next is held";
}

TEST_F(BlockingPartsTest, IdleOnesAreLookedAtOnceInThatTime) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const int before = first_.looks();
  for (int i = 0; i < 100; ++i) {
    Pass(kLong / 10);
  }
  EXPECT_EQ(first_.looks() - before, 10);
}

TEST_F(BlockingPartsTest, NoneIsTouchedBehindTheEnd) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_TRUE(parts_.Add(second_));
  first_.Hold(clock_.Now());
  parts_.End();
  EXPECT_TRUE(parts_.empty());
  EXPECT_FALSE(first_.blocking());
  EXPECT_FALSE(second_.blocking());
  // Nor does the thread wait for anything.
  while (clock_.waiting() > 0) {
    std::this_thread::yield();
  }
  parts_.Delivered();
  EXPECT_EQ(first_.deliveries(), 0);
  // It may begin anew.
  ASSERT_TRUE(parts_.Add(second_));
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  second_.Hold(clock_.Now());
  parts_.Delivered();
  EXPECT_EQ(second_.deliveries(), 1);
  Pass(kLong);
  EXPECT_EQ(second_.waiting(), 0u);
  EXPECT_EQ(first_.waiting(), 1u);
  parts_.Stop();
  EXPECT_FALSE(second_.blocking());
  parts_.Stop();
}

TEST_F(BlockingPartsTest, PartThatCannotBlockIsNone) {
  ASSERT_EQ(parts_.Start().ToString(), "OK");
  Held cannot(/*can_block=*/false);
  EXPECT_FALSE(parts_.Add(cannot));
  EXPECT_TRUE(parts_.empty());
}

class NoThreads final : public ThreadMaker {
 public:
  absl::StatusOr<Thread> Start(std::string name, ThreadClass, std::function<void()>) override {
    return absl::ResourceExhaustedError(name + " is refused");
  }
};

TEST_F(BlockingPartsTest, ThreadThatCannotBeMadeIsAnError) {
  NoThreads maker;
  const Host host{.log = host_.get().log, .threads = maker};
  BlockingParts parts(host);
  EXPECT_EQ(parts.Start().message(), "mig-src-held is refused");
}

}  // namespace
}  // namespace ferrite::migration
