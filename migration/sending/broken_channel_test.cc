// Behind the switchover a page channel breaks, and the others go on.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "memory/page_range.h"
#include "migration/api/move_options.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/page_source.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint64_t, 2> kPages = {64, 16};
constexpr std::array<uint64_t, 2> kPagesPerUnit = {1, 1};

class BrokenChannelTest : public testing::Test {
 protected:
  struct Word {
    size_t channel;
    size_t living;
    bool told;
    bool operator==(const Word&) const = default;
  };

  // Channels of which the test has the other ends.
  void Open(size_t channels, bool knows = true, const MoveOptions& options = {}) {
    PageSource::Channels sinks;
    for (size_t i = 0; i < channels; ++i) {
      PairEnds ends = MakePairEnds();
      sinks.page.push_back(std::move(ends.sink));
      feeds_.push_back(std::move(ends.feed));
    }
    sinks.urgent.push_back(std::move(urgent_.sink));
    if (knows) {
      sinks.tell_broken = [this](size_t channel) {
        // As the other end does.
        EXPECT_EQ(Missing(channel, missing_), absl::OkStatus());
      };
      sinks.on_fewer = [this](size_t channel, size_t living, const absl::Status& why) {
        EXPECT_FALSE(why.ok());
        const TimedMutexLock lock(&mutex_);
        words_.push_back({channel, living, why.message() == "the destination lost it"});
      };
    }
    source_ = *PageSource::Create(AnyHost(), {&first_, &second_}, kPagesPerUnit, std::move(sinks), options, figures_,
                                  [this](const absl::Status& status) {
                                    const TimedMutexLock lock(&mutex_);
                                    failure_.Update(status);
                                  });
    source_->MakePending({0, 0, 64});
  }
  void Start() {
    source_->StartPostcopy();
    source_->StartRest();
  }
  PageTaker& Take(size_t channel) {
    return *takers_.emplace_back(std::make_unique<PageTaker>(std::move(feeds_[channel]), kept_));
  }
  std::vector<Word> AwaitWords(size_t count) {
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return words_.size() >= count; };
    const TimedMutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitFor(absl::Condition(&came), absl::Seconds(30)));
    return words_;
  }
  static void AwaitThat(absl::FunctionRef<bool()> condition) {
    const MonotonicTime until = MonotonicTime::Now() + absl::Seconds(30);
    while (!condition()) {
      ASSERT_LT(MonotonicTime::Now(), until);
      std::this_thread::yield();
    }
  }
  absl::Status Missing(size_t channel, std::vector<PageRange> missing, bool last = true) {
    return source_->OnBroken(channel, missing, last);
  }

  FakePart first_{{kPages[0]}}, second_{{kPages[1]}, 2};
  std::vector<PageRange> missing_;  // where the source is the first to notice
  SendFigures figures_;
  KeptPages kept_{kPages};
  std::vector<std::unique_ptr<PairPageFeed>> feeds_;
  std::vector<std::unique_ptr<PageTaker>> takers_;
  PairEnds urgent_ = MakePairEnds();
  mutable TimedMutex mutex_;
  std::vector<Word> words_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<PageSource> source_;
};

// All of memory is one lease, which one of the two has: it is tried until that was the one that broke.
TEST_F(BrokenChannelTest, WhatItHadGoesOverTheOther) {
  missing_ = {{0, 0, 64}, {1, 0, 16}};
  size_t breaks = 0;
  while (breaks < 1000 && figures_.resent_pages == 0) {
    source_ = nullptr;
    takers_.clear();
    feeds_.clear();
    urgent_ = MakePairEnds();
    Open(2);
    feeds_[0]->Shutdown();
    Start();
    PageTaker& taker = Take(1);
    EXPECT_EQ(source_->FinishRest(), absl::OkStatus());
    EXPECT_EQ(taker.AwaitRound(kLastRound).back(), RoundFrame(kLastRound));
    ++breaks;
    EXPECT_EQ(AwaitWords(breaks).back(), (Word{0, 1, false})) << "it also breaks where it has nothing";
  }
  EXPECT_EQ(figures_.broken_channels, breaks);
  EXPECT_EQ(figures_.resent_pages, 16u) << "its first claim";
  for (uint64_t page = 0; page < 64; ++page) {
    EXPECT_TRUE(kept_.Holds(0, page, FakePart::ByteOf(0, page)));
  }
}

// It was done, and so were the others: they go on.
TEST_F(BrokenChannelTest, WhatIsFoundMissingBehindTheEndGoesAgain) {
  Open(3);
  Start();
  for (const size_t channel : {0, 1, 2}) {
    (void)Take(channel);
  }
  EXPECT_EQ(source_->FinishRest(), absl::OkStatus());
  // The other end had not placed it. Who had claimed it is one of the three; who sends it again may break next.
  uint64_t again = 0;
  for (const size_t channel : {0, 1}) {
    EXPECT_EQ(Missing(channel, {{0, 5, 3}}, /*last=*/false), absl::OkStatus());
    EXPECT_EQ(Missing(channel, {{0, 60, 4}}), absl::OkStatus());
    EXPECT_EQ(source_->FinishRest(), absl::OkStatus());
    (void)AwaitWords(channel + 1);
    again = figures_.resent_pages;
  }
  EXPECT_TRUE(again == 0 || again == 7 || again == 14) << again;
  EXPECT_EQ(AwaitWords(2), (std::vector<Word>{{0, 2, true}, {1, 1, true}}));
  EXPECT_EQ(figures_.data_pages, 64 + again);
  EXPECT_EQ(figures_.broken_channels, 2u);
  {
    const TimedMutexLock lock(&mutex_);
    EXPECT_EQ(failure_, absl::OkStatus());
  }
  // An end of its own is behind what goes again, and behind nothing else: a destination that has all may have closed.
  std::vector<PageHeader> frames = takers_[2]->AwaitRound(kLastRound);
  source_->Shutdown();
  const std::vector<PageHeader> others = takers_[2]->AwaitEnd();
  frames.insert(frames.end(), others.begin(), others.end());
  EXPECT_EQ(std::adjacent_find(frames.begin(), frames.end()), frames.end());
}

// R5: a vCPU waits for a page that was on its way there, and the limit is for what nobody waits for.
TEST_F(BrokenChannelTest, WhatIsWaitedForGoesBeforeTheRest) {
  Open(2, /*knows=*/true, {.max_postcopy_bandwidth = 1});
  // Of the rest the limit lets one claim pass at once, and none behind it.
  Start();
  PageTaker& first = Take(0);
  PageTaker& second = Take(1);
  AwaitThat([&] { return first.HasFrame() || second.HasFrame(); });
  const size_t sender = first.HasFrame() ? 0 : 1;
  EXPECT_EQ(takers_[sender]->AwaitFrame(), PagesFrame(0, 0, 16));
  constexpr PageRange kAsked = {.region = 0, .first = 14, .count = 1};
  EXPECT_EQ(urgent_.feed->Ask({&kAsked, 1}), absl::OkStatus());
  AwaitThat([this] { return figures_.faults == 1; });
  EXPECT_EQ(Missing(sender, {{0, 12, 4}}), absl::OkStatus());
  EXPECT_EQ(takers_[1 - sender]->AwaitFrame(), PagesFrame(0, 14, 1));
  EXPECT_EQ(figures_.data_pages, 17u) << "the others wait for the limit";
}

TEST_F(BrokenChannelTest, LastOneIsTheConnection) {
  Open(2);
  Start();
  for (const size_t channel : {0, 1}) {
    (void)Take(channel).AwaitRound(kLastRound);
  }
  EXPECT_EQ(Missing(0, {}), absl::OkStatus());
  EXPECT_EQ(source_->FinishRest(), absl::OkStatus());
  EXPECT_EQ(Missing(1, {}), absl::OkStatus());
  EXPECT_TRUE(absl::IsUnavailable(source_->FinishRest()));
  EXPECT_EQ(figures_.broken_channels, 1u);
}

TEST_F(BrokenChannelTest, OnlyOneIsTheConnection) {
  Open(1);
  feeds_[0]->Shutdown();
  Start();
  EXPECT_TRUE(absl::IsUnavailable(source_->FinishRest()));
  EXPECT_EQ(AwaitWords(0), std::vector<Word>());
}

TEST_F(BrokenChannelTest, WhereTheOtherEndDoesNotKnowItItIsTheConnection) {
  Open(2, /*knows=*/false);
  feeds_[0]->Shutdown();
  feeds_[1]->Shutdown();
  Start();
  EXPECT_TRUE(absl::IsUnavailable(source_->FinishRest()));
  EXPECT_TRUE(absl::IsInvalidArgument(Missing(0, {})));
  EXPECT_EQ(figures_.broken_channels, 0u);
}

// An urgent channel is no page channel.
TEST_F(BrokenChannelTest, UrgentOneIsTheConnection) {
  Open(2);
  Start();
  const PageRange nothing = {.region = 9, .first = 0, .count = 1};
  EXPECT_EQ(urgent_.feed->Ask({&nothing, 1}), absl::OkStatus());
  EXPECT_FALSE(source_->FinishRest().ok());
}

// R11.
TEST_F(BrokenChannelTest, WhatTheOtherEndCannotSayIsRefused) {
  Open(2);
  const auto wrong = [this](size_t channel, std::vector<PageRange> missing, bool last, absl::string_view what) {
    const absl::Status status = Missing(channel, std::move(missing), last);
    EXPECT_TRUE(absl::IsInvalidArgument(status) && absl::StrContains(status.message(), what)) << status;
  };
  wrong(0, {}, true, "before the guest was handed over");
  source_->StartPostcopy();
  wrong(2, {}, true, "which there is not");
  wrong(0, {{2, 0, 1}}, true, "no memory");
  wrong(0, {{0, 64, 1}}, true, "no memory");
  wrong(0, {{0, 0, 0}}, true, "no memory");
  wrong(0, {{0, 63, 2}}, true, "no memory");
  wrong(0, {{0, 63, ~uint64_t{0}}}, true, "no memory");
  wrong(0, {}, false, "nothing in it");
  EXPECT_EQ(AwaitWords(0), std::vector<Word>()) << "nothing came of that";
  EXPECT_EQ(Missing(0, {{0, 0, 64}, {1, 0, 16}}, false), absl::OkStatus());
  wrong(0, {{0, 0, 1}}, true, "twice");
  EXPECT_EQ(Missing(0, {}), absl::OkStatus());
  wrong(0, {}, true, "twice");
}

}  // namespace
}  // namespace ferrite::migration
