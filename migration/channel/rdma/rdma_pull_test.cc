// What the two ends of a channel do behind the switchover: the destination reads pages out of the source's memory.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/channel/rdma/rdma_rig.h"
#include "migration/channel/rdma/rdma_urgent_feed.h"
#include "migration/channel/wait_set.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/rdma_fabric.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

class RdmaPullTest : public RdmaPagesTest {
 protected:
  // Chunk 0 was written in the rounds, and those are over.
  void SwitchOver() {
    AwaitKey(0);
    ASSERT_EQ(sink_->EndRounds(), absl::OkStatus());
    // That is all that is left to be read of the rounds.
    Round([] {});
    place_->End();
    sink_->PreferLatency();
    feed_->PreferLatency();
  }
  // What is put in comes, frame by frame.
  void Come(uint64_t frames) {
    Thread receiver = StartOrDie("test-receive", [this, frames] {
      for (uint64_t i = 0; i < frames; ++i) {
        const auto header = feed_->Next(*this);
        EXPECT_TRUE(header.ok()) << header.status();
      }
    });
    EXPECT_EQ(sink_->Flush(), absl::OkStatus());
    receiver.Join();
  }
  absl::StatusOr<Target> NextTarget(const PageRange& rest) override {
    ++targets_;
    return is_here_ ? Target{.pages = rest.count, .bytes = {}} : RdmaPagesTest::NextTarget(rest);
  }
  absl::StatusOr<uint64_t> Zero(const PageRange& rest) override {
    zero_.push_back(rest);
    return rest.count;
  }

  // An urgent channel, whose source has told its keys.
  void OpenUrgent() {
    auto streams = *MakeStreamPair();
    std::unique_ptr<QueuePair> there;
    Thread connects = StartOrDie("test-connect", [&] {
      there = *there_->Connect(listener_->port(), "u", {.remote_read = true}, Soon(), never_);
    });
    auto here = listener_->Accept("u", {}, Soon(), never_);
    ASSERT_TRUE(here.ok()) << here.status();
    connects.Join();
    auto puller = Puller::Create(*std::move(here), here_, *streams.second, patience_, RealClock());
    ASSERT_TRUE(puller.ok()) << puller.status();
    urgent_feed_ = std::make_unique<RdmaUrgentFeed>(std::move(streams.second), *std::move(puller), RealClock());
    urgent_sink_ = *RdmaPageSink::Create(std::move(streams.first), {.push = nullptr, .pull = std::move(there)}, reach_,
                                         patience_, RealClock());
    server_ = StartOrDie("test-serve", [this] {
      for (auto request = urgent_sink_->NextRequest(); request.ok(); request = urgent_sink_->NextRequest()) {
        const TimedMutexLock lock(&mutex_);
        requests_.push_back(*request);
      }
    });
  }
  void TakeKeys(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const auto header = urgent_feed_->Next(*this);
      ASSERT_TRUE(header.ok()) << header.status();
      EXPECT_EQ(header->type, PageFrameType::kKey);
    }
  }
  void AwaitRequests(size_t count) {
    const TimedMutexLock lock(&mutex_);
    const auto have = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return requests_.size() >= count; };
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&have), absl::Seconds(20)));
  }
  void Ask(const PageRange& run) { EXPECT_EQ(urgent_feed_->Ask({&run, 1}), absl::OkStatus()); }
  void TearDown() override {
    if (urgent_sink_ != nullptr) {
      urgent_feed_->Shutdown();
      urgent_sink_->Shutdown();
      server_.Join();
    }
  }

  bool is_here_ = false;  // nobody needs what comes
  int targets_ = 0;
  std::vector<PageRange> zero_;
  std::unique_ptr<RdmaUrgentFeed> urgent_feed_;
  std::unique_ptr<RdmaPageSink> urgent_sink_;
  TimedMutex mutex_;
  std::vector<PageRange> requests_ ABSL_GUARDED_BY(mutex_);
  Thread server_;
};

TEST_F(RdmaPullTest, PagesAreReadBehindTheSwitchover) {
  SwitchOver();
  Fill(Pages(0, 100));
  ASSERT_EQ(Put(Pages(0, 100)), absl::OkStatus());
  EXPECT_GE(sink_->gathered_bytes(), 100 * kPageBytes) << "a limit counts them";
  Come(1);
  EXPECT_TRUE(HasCome(Pages(0, 100)));
  EXPECT_EQ(fabric_.counts().read_bytes, 100 * kPageBytes);
  EXPECT_EQ(sink_->AwaitPlaced(1), absl::OkStatus());
}

// Their bytes are on the way, too.
TEST_F(RdmaPullTest, NoMoreIsOnTheWayThanIsAskedFor) {
  SwitchOver();
  sink_->SetPatience(absl::Milliseconds(200));
  ASSERT_EQ(Put(Pages(0, 100)), absl::OkStatus());
  ASSERT_EQ(Put(Pages(100, 100)), absl::OkStatus());
  ASSERT_EQ(sink_->Flush(), absl::OkStatus());
  EXPECT_FALSE(sink_->AwaitPlaced(100 * kPageBytes).ok()) << "nobody has taken any";
}

// One of which nothing was pushed, since it was skipped, or nobody gave a key for it.
TEST_F(RdmaPullTest, MemoryIsRegisteredWhenItIsNeeded) {
  SwitchOver();
  const PageRange run = Pages(2 * kChunkPages - 4, 8);
  Fill(run);
  ASSERT_EQ(Put(run), absl::OkStatus());
  Come(2);
  EXPECT_TRUE(HasCome(run));
  EXPECT_EQ(fabric_.counts().reads, 2u);
  EXPECT_EQ(there_figures_->registered_chunks, 3u);
}

TEST_F(RdmaPullTest, MemoryThatCannotBeRegisteredGoesBehindHeaders) {
  SwitchOver();
  fabric_.LimitRegistered(End::kThere, 0);
  const PageRange run = Pages(kChunkPages - 4, 8);
  Fill(run);
  ASSERT_EQ(Put(run), absl::OkStatus());
  Come(2);
  EXPECT_TRUE(HasCome(run));
  EXPECT_EQ(fabric_.counts().reads, 1u);
}

TEST_F(RdmaPullTest, WhatIsHereIsNotRead) {
  SwitchOver();
  is_here_ = true;
  filled_.clear();
  ASSERT_EQ(Put(Pages(0, 100)), absl::OkStatus());
  Come(1);
  EXPECT_EQ(fabric_.counts().reads, 0u);
  EXPECT_EQ(filled_, std::vector<PageRange>{});
}

TEST_F(RdmaPullTest, BrokenQueuePairIsALostChannel) {
  SwitchOver();
  fabric_.Hold(Held::kWork);
  ASSERT_EQ(Put(Pages(0, 8)), absl::OkStatus());
  Thread receiver =
      StartOrDie("test-receive", [this] { EXPECT_TRUE(absl::IsUnavailable(feed_->Next(*this).status())); });
  ASSERT_EQ(sink_->Flush(), absl::OkStatus());
  EXPECT_TRUE(fabric_.AwaitHeld(Held::kWork, 1));
  fabric_.Cut(1);
}

// R5: no thread of the source is needed for it.
TEST_F(RdmaPullTest, PageThatIsAskedForIsReadAtOnce) {
  SwitchOver();
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  TakeKeys(1);
  Fill(Pages(5, 1));
  Ask(Pages(5, 1));
  const auto header = urgent_feed_->Next(*this);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->type, PageFrameType::kPages);
  EXPECT_EQ(header->first_page, 5u);
  EXPECT_TRUE(HasCome(Pages(5, 1)));
  EXPECT_EQ(fabric_.counts().reads, 1u);
  AwaitRequests(1);
  // R6: the source's frame of it brings nothing, and is heard of by nobody.
  is_here_ = true;
  filled_.clear();
  ASSERT_EQ(urgent_sink_->Pages(Pages(5, 1), At(source_, Pages(5, 1))), absl::OkStatus());
  ASSERT_EQ(urgent_sink_->Flush(), absl::OkStatus());
  ASSERT_TRUE(urgent_feed_->Next(*this).ok());
  EXPECT_EQ(fabric_.counts().reads, 1u);
  EXPECT_EQ(filled_, std::vector<PageRange>{});
}

TEST_F(RdmaPullTest, ZeroPageThatWasReadIsNotPlacedTwice) {
  SwitchOver();
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  TakeKeys(1);
  Ask(Pages(9, 1));
  AwaitRequests(1);
  ASSERT_TRUE(urgent_feed_->Next(*this).ok());
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(urgent_sink_->Zero(Pages(9, 1)), absl::OkStatus());
    ASSERT_EQ(urgent_sink_->Flush(), absl::OkStatus());
  }
  EXPECT_EQ(urgent_feed_->Next(*this)->type, PageFrameType::kKey);
  EXPECT_EQ(zero_, std::vector<PageRange>{});
  const auto second = urgent_feed_->Next(*this);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->type, PageFrameType::kZero) << second->first_page << "+" << second->count;
}

TEST_F(RdmaPullTest, PageWithoutAKeyIsAskedForAsEver) {
  SwitchOver();
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  TakeKeys(1);
  Ask(Pages(kChunkPages + 3, 1));
  // Also more at once than is read ahead of the source.
  Ask(Pages(0, 64));
  AwaitRequests(2);
  EXPECT_EQ(fabric_.counts().reads, 0u);
  Fill(Pages(kChunkPages + 3, 1));
  ASSERT_EQ(urgent_sink_->Pages(Pages(kChunkPages + 3, 1), At(source_, Pages(kChunkPages + 3, 1))), absl::OkStatus());
  ASSERT_EQ(urgent_sink_->Flush(), absl::OkStatus());
  ASSERT_TRUE(urgent_feed_->Next(*this).ok());
  EXPECT_TRUE(HasCome(Pages(kChunkPages + 3, 1)));
  EXPECT_EQ(fabric_.counts().reads, 0u) << "who waits for it does not wait for a registration";
}

TEST_F(RdmaPullTest, MoreThanIsReadAtATimeIsAskedForAsEver) {
  SwitchOver();
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  TakeKeys(1);
  fabric_.Hold(Held::kCompletions);
  for (uint64_t page = 0; page < 2 * Puller::kMostEarly; ++page) {
    Ask(Pages(page, 1));
  }
  AwaitRequests(2 * Puller::kMostEarly);
  fabric_.LetGo(Held::kCompletions);
  for (uint64_t i = 0; i < Puller::kMostEarly; ++i) {
    ASSERT_TRUE(urgent_feed_->Next(*this).ok());
  }
  EXPECT_EQ(fabric_.counts().reads, Puller::kMostEarly);
}

TEST_F(RdmaPullTest, FaultThreadIsWokenByBoth) {
  SwitchOver();
  ASSERT_NO_FATAL_FAILURE(OpenUrgent());
  WaitSet set = *WaitSet::Create();
  ASSERT_EQ(urgent_feed_->Join(set, 1), absl::OkStatus());
  EXPECT_EQ(*set.Wait(), 1u);
  TakeKeys(1);
  for (int i = 0; i < 3; ++i) {
    Ask(Pages(5 + static_cast<uint64_t>(i), 1));
    EXPECT_EQ(*set.Wait(), 1u);
    ASSERT_TRUE(urgent_feed_->Next(*this).ok());
  }
}

}  // namespace
}  // namespace ferrite::migration
