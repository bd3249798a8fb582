// Which pages of two parts leave over which channel, in rounds and after the switchover.
#include "migration/sending/page_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "memory/guest_address.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// The first part has two regions, the second one has one, of which huge pages go after the switchover.
constexpr std::array<uint64_t, 3> kPages = {16, 8, 64};
constexpr std::array<uint64_t, 3> kPagesPerUnit = {1, 1, 8};
constexpr uint64_t kAll = 16 + 8 + 64;

using Frames = std::vector<PageHeader>;
bool Never() { return false; }

class PageSourceTest : public testing::Test {
 protected:
  void Open(size_t channels) {
    TakenChannels taken = MakeTakenChannels(channels, kept_);
    takers_ = std::move(taken.takers);
    PageSource::Channels sinks;
    sinks.page = std::move(taken.sinks);
    sinks.urgent.push_back(std::move(urgent_.sink));
    source_ = *PageSource::Create(host_.get(), {&first_, &second_}, kPagesPerUnit, std::move(sinks), options_, figures_,
                                  [this](const absl::Status& status) {
                                    const TimedMutexLock lock(&mutex_);
                                    failure_.Update(status);
                                  });
  }
  // Has `rest` and what is dirty sent, of which the limit holds back what is behind the first run or the hot ones.
  void StartHeldBack(const std::vector<PageRange>& rest) {
    options_.max_postcopy_bandwidth = kPageBytes;
    Open(1);
    for (const PageRange& run : rest) {
      source_->MakePending(run);
    }
    EXPECT_TRUE(source_->CollectDirty().ok());
    source_->StartPostcopy();
    source_->StartRest();
    EXPECT_TRUE(clock_.AwaitWaiting(1));
  }
  void Ask(const PageRange& run) { EXPECT_TRUE(urgent_.feed->Ask({&run, 1}).ok()); }
  // A round that the limit holds back.
  Thread StartRound(uint32_t number) {
    Thread round = StartOrDie("test-round", [=, this] { result_ = source_->SendRound(number, Never); });
    EXPECT_TRUE(clock_.AwaitWaiting(1));
    EXPECT_FALSE(takers_[0]->HasRound(number));
    return round;
  }
  absl::Status failure() const {
    const TimedMutexLock lock(&mutex_);
    return failure_;
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  FakePart first_{{kPages[0], kPages[1]}}, second_{{kPages[2]}, 2};
  MoveOptions options_;
  SendFigures figures_;
  KeptPages kept_{kPages};
  std::vector<std::unique_ptr<PageTaker>> takers_;  // one for each page channel
  PairEnds urgent_ = MakePairEnds();
  absl::Status result_;
  mutable TimedMutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<PageSource> source_;
};

TEST_F(PageSourceTest, SkippedPagesAreToldToBeZeroAndPartsAreNumberedOneAfterTheOther) {
  first_.skipped = {{1, 0, 3}, {1, 6, 2}};
  second_.skipped = {{0, 10, 4}};
  Open(1);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  ASSERT_EQ(source_->SendRound(0, Never), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(0),
            (Frames{ZeroFrame(1, 0, 3), ZeroFrame(1, 6, 2), ZeroFrame(2, 10, 4), PagesFrame(0, 0, 16),
                    PagesFrame(1, 3, 3), PagesFrame(2, 0, 10), PagesFrame(2, 14, 50), RoundFrame(0)}));
  EXPECT_TRUE(kept_.Holds(0, 15, FakePart::ByteOf(0, 15)) && kept_.Holds(1, 5, FakePart::ByteOf(1, 5)));
  EXPECT_TRUE(kept_.Holds(2, 63, FakePart::ByteOf(2, 63)));
  EXPECT_EQ(figures_.skipped_pages, 9u);
  EXPECT_EQ(figures_.data_pages, kAll - 9);
  // What is told to be zero and is written afterwards is out of date at the destination, as a whole unit.
  second_.dirty = {{0, 12, 1}};
  EXPECT_EQ(source_->CollectDirty()->bytes, kPageBytes);
  EXPECT_EQ(source_->TakeStale(), (std::vector<PageRange>{{2, 8, 8}}));
  EXPECT_EQ(figures_.resent_pages, 8u);
}

TEST_F(PageSourceTest, RoundEndsOnEveryChannelAndWhatGoesAgainIsCounted) {
  Open(3);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  ASSERT_EQ(source_->SendRound(0, [] { return true; }), absl::OkStatus());
  ASSERT_EQ(source_->SendRound(1, Never), absl::OkStatus());
  for (const auto& taker : takers_) {
    EXPECT_EQ(taker->AwaitRound(0), Frames{RoundFrame(0)}) << "it was to stop";
    EXPECT_EQ(taker->AwaitRound(1).back(), RoundFrame(1));
  }
  EXPECT_EQ(figures_.data_pages, kAll);
  EXPECT_EQ(source_->PendingBytes() + figures_.resent_pages, 0u);
  first_.dirty = {{1, 2, 3}};
  second_.dirty = {{0, 63, 1}};
  std::fill_n(first_.memory[1].begin() + 2 * kPageBytes, 3 * kPageBytes, 0xee);
  EXPECT_EQ(source_->CollectDirty()->bytes, 4 * kPageBytes);
  ASSERT_EQ(source_->SendRound(2, Never), absl::OkStatus());
  for (const auto& taker : takers_) {
    EXPECT_EQ(taker->AwaitRound(2).back(), RoundFrame(2));
  }
  EXPECT_EQ(figures_.resent_pages, 4u);
  EXPECT_EQ(figures_.data_pages, kAll + 4);
  EXPECT_TRUE(kept_.Holds(1, 2, 0xee) && kept_.Holds(1, 4, 0xee) && kept_.Holds(1, 5, FakePart::ByteOf(1, 5)));
  EXPECT_EQ(source_->CollectDirty()->bytes, 0u);
}

TEST_F(PageSourceTest, RoundLeavesOutWhatItIsToldAndItIsStillToBeSent) {
  Open(1);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  first_.dirty = {{0, 0, 8}};
  PageSource::Dirty dirty = *source_->CollectDirty();
  EXPECT_EQ(dirty.bytes, 8 * kPageBytes);
  EXPECT_EQ(dirty.again_bytes, 0u);
  EXPECT_EQ(source_->PendingBytes(RoundPages::kUnsent, UINT64_MAX), (kAll - 8) * kPageBytes);
  ASSERT_EQ(source_->SendRound(0, Never, RoundPages::kUnsent), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(0),
            (Frames{PagesFrame(0, 8, 8), PagesFrame(1, 0, 8), PagesFrame(2, 0, 64), RoundFrame(0)}));
  EXPECT_EQ(source_->PendingBytes(), 8 * kPageBytes);
  first_.dirty = {{0, 4, 8}};
  dirty = *source_->CollectDirty();
  EXPECT_EQ(dirty.bytes, 8 * kPageBytes);
  EXPECT_EQ(dirty.again_bytes, 4 * kPageBytes);
  ASSERT_EQ(source_->SendRound(1, Never, RoundPages::kQuiet), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(1), (Frames{PagesFrame(0, 0, 4), PagesFrame(0, 8, 4), RoundFrame(1)}));
  EXPECT_EQ(figures_.resent_pages, 4u);
  ASSERT_EQ(source_->SendRound(2, Never), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(2), (Frames{PagesFrame(0, 4, 4), RoundFrame(2)}));
  EXPECT_EQ(figures_.resent_pages, 4u);
}

TEST_F(PageSourceTest, MirroredPartGoesByItselfAndThenBeforeTheOthers) {
  second_.is_mirrored = true;
  second_.skipped = {{0, 10, 4}};
  first_.skipped = {{1, 0, 3}};
  figures_.further = std::vector<PartSent>(1);
  Open(1);
  ASSERT_EQ(source_->Start(WhichParts::kMirrored), absl::OkStatus());
  EXPECT_EQ(source_->PendingBytes(), 60 * kPageBytes);
  ASSERT_EQ(source_->SendRound(0, Never, RoundPages::kAll, WhichParts::kMirrored), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(0),
            (Frames{ZeroFrame(2, 10, 4), PagesFrame(2, 0, 10), PagesFrame(2, 14, 50), RoundFrame(0)}));
  EXPECT_EQ(figures_.mirrored_pages, 64u);
  EXPECT_EQ(figures_.mirrored_bytes, 2 * kPageHeaderBytes + 60 * kPageBytes);
  first_.dirty = {{0, 1, 1}};
  second_.dirty = {{0, 12, 4}};
  PageSource::Dirty dirty = *source_->CollectDirty(WhichParts::kMirrored);
  EXPECT_EQ(dirty.mirrored_bytes, 4 * kPageBytes);
  EXPECT_EQ(dirty.bytes, 0u) << "it was not asked for";
  EXPECT_EQ(source_->PendingBytes(second_), 4 * kPageBytes);

  ASSERT_EQ(source_->Start(WhichParts::kOthers), absl::OkStatus());
  EXPECT_EQ(source_->PendingBytes(first_), 21 * kPageBytes);
  ASSERT_EQ(source_->SendRound(1, Never, RoundPages::kUnsent), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(1), (Frames{ZeroFrame(1, 0, 3), PagesFrame(2, 12, 4), PagesFrame(0, 0, 16),
                                               PagesFrame(1, 3, 5), RoundFrame(1)}));
  EXPECT_EQ(figures_.mirrored_pages, 68u);
  EXPECT_EQ(figures_.data_pages, 64u + 21);
  EXPECT_EQ(figures_.resent_pages, 4u);
  PartFigures part;
  figures_.further[0].AddTo(part);
  EXPECT_EQ(part.data_bytes, 64 * kPageBytes);
  EXPECT_EQ(part.zero_bytes, 4 * kPageBytes);
  EXPECT_EQ(part.again_bytes, 4 * kPageBytes);
  second_.dirty = {{0, 0, 2}};
  dirty = *source_->CollectDirty();
  EXPECT_EQ(dirty.bytes, kPageBytes);
  EXPECT_EQ(dirty.mirrored_bytes, 2 * kPageBytes);
  EXPECT_EQ(source_->TakeStale(), (std::vector<PageRange>{{0, 1, 1}})) << "the last round brings the others";
  EXPECT_EQ(source_->PendingBytes(WhichParts::kMirrored), 2 * kPageBytes);
  EXPECT_EQ(source_->PendingBytes(WhichParts::kOthers), kPageBytes);
}

TEST_F(PageSourceTest, PartThatCannotBeSentEndsTheRound) {
  second_.refuses = absl::InternalError("disk: gone");
  Open(2);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  EXPECT_EQ(source_->SendRound(0, Never), second_.refuses) << "and not what the other channel says of its end";
}

// By its time the rate is measured.
TEST_F(PageSourceTest, RoundLastsUntilTheLimitAllowsAllOfIt) {
  options_.max_bandwidth = kPageBytes;
  Open(1);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  const MonotonicTime start = clock_.Now();
  Thread round = StartRound(0);
  EXPECT_TRUE(clock_.PassUntil([&] { return takers_[0]->HasRound(0); }));
  round.Join();
  EXPECT_EQ(result_, absl::OkStatus());
  EXPECT_EQ(figures_.data_pages, kAll);
  EXPECT_GT(clock_.Now() - start, (kAll - 1) * absl::Seconds(1));
  EXPECT_LT(clock_.Now() - start, (kAll + 1) * absl::Seconds(1));
}

TEST_F(PageSourceTest, RoundThatTheLimitHoldsBackEndsAtShutdown) {
  options_.max_bandwidth = kPageBytes;
  Open(1);
  ASSERT_EQ(source_->Start(), absl::OkStatus());
  Thread round = StartRound(0);
  // Nobody sees that before the limit allows it, or does not matter any more.
  takers_.clear();
  source_->Shutdown();
  round.Join();
  EXPECT_TRUE(absl::IsUnavailable(result_)) << result_;
}

// R5, R6.
TEST_F(PageSourceTest, RestGoesOnceByUnitsTheHotOnesFirstAndWhatIsAskedForAtOnce) {
  second_.dirty = {{0, 42, 1}};
  StartHeldBack({{2, 0, 16}, {2, 32, 8}});
  Ask({2, 10, 1});
  EXPECT_EQ(*urgent_.feed->Next(kept_), PagesFrame(2, 8, 8));
  EXPECT_TRUE(clock_.PassUntil([&] { return takers_[0]->HasRound(kLastRound); }));
  EXPECT_EQ(source_->FinishRest(), absl::OkStatus());
  EXPECT_EQ(takers_[0]->AwaitRound(kLastRound),
            (Frames{PagesFrame(2, 40, 8), PagesFrame(2, 0, 8), PagesFrame(2, 32, 8), RoundFrame(kLastRound)}));
  EXPECT_EQ(source_->PendingBytes(), 0u);
  source_.reset();
  EXPECT_EQ(figures_.requested_pages, 8u);
  EXPECT_EQ(failure(), absl::OkStatus());
}

TEST_F(PageSourceTest, RestThatTheLimitHoldsBackEndsAtShutdown) {
  StartHeldBack({{2, 0, 32}, {2, 40, 8}});
  takers_.clear();
  source_->Shutdown();
  EXPECT_TRUE(absl::IsUnavailable(source_->FinishRest()));
  EXPECT_TRUE(absl::IsUnavailable(failure())) << failure();
}

// R11.
TEST_F(PageSourceTest, WrongRequestIsTheFailureOfAllChannels) {
  StartHeldBack({{2, 0, 16}, {2, 40, 8}});
  Ask({3, 0, 1});
  EXPECT_TRUE(absl::IsInvalidArgument(source_->FinishRest()));
  EXPECT_EQ(takers_[0]->AwaitEnd().front(), PagesFrame(2, 0, 16));
  source_.reset();
  EXPECT_TRUE(absl::IsInvalidArgument(failure())) << failure();
}

}  // namespace
}  // namespace ferrite::migration
