// What goes over several channels when those before them were lost in the rounds: a page once in a round (R1).
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "memory/page_range.h"
#include "migration/api/move_options.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/page_source.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/send_figures.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint64_t, 2> kPages = {64, 96};
constexpr std::array<uint64_t, 2> kPagesPerUnit = {1, 1};
constexpr size_t kChannels = 3;

bool Never() { return false; }
bool AtOnce() { return true; }

// What is said of a part's pages, page by page.
using Told = std::vector<std::map<uint64_t, PageFrameType>>;

class TakenBackPagesTest : public testing::Test {
 protected:
  void SetUp() override {
    disk_.is_mirrored = true;
    memory_.skipped = {{0, 10, 20}};
    disk_.skipped = {{0, 0, 8}, {0, 40, 30}};
    Open();
    ASSERT_EQ(source_->Start(), absl::OkStatus());
  }
  void Open() {
    TakenChannels taken = MakeTakenChannels(kChannels, kept_);
    takers_ = std::move(taken.takers);
    PageSource::Channels sinks;
    sinks.page = std::move(taken.sinks);
    source_ = *PageSource::Create(host_.get(), {&memory_, &disk_}, kPagesPerUnit, std::move(sinks), {}, figures_,
                                  [](const absl::Status& status) { ADD_FAILURE() << status; },
                                  {.can_be_lost = true, .pages = pending_});
    pending_ = source_->pending();
  }
  // The connections are lost, and made again.
  void Lose() {
    source_->Shutdown();
    source_.reset();
    takers_.clear();
    Open();
  }
  // A round to its end.
  Told Send(uint32_t number) {
    EXPECT_EQ(source_->SendRound(number, Never), absl::OkStatus());
    Told told(kPages.size());
    for (const auto& taker : takers_) {
      for (const PageHeader& frame : taker->AwaitRound(number)) {
        for (uint64_t i = 0; frame.type != PageFrameType::kRound && i < frame.count; ++i) {
          const uint64_t page = frame.first_page + i;
          EXPECT_TRUE(told[frame.region].emplace(page, frame.type).second)
              << "page " << page << " of region " << frame.region << " goes twice in a round, on any two channels";
        }
      }
    }
    return told;
  }
  static uint64_t Count(const Told& told, size_t region, PageFrameType type) {
    uint64_t count = 0;
    for (const auto& [page, how] : told[region]) {
      count += how == type ? 1 : 0;
    }
    return count;
  }

  const TestHost host_;
  FakePart memory_{{kPages[0]}}, disk_{{kPages[1]}, 1};
  SendFigures figures_;
  KeptPages kept_{kPages};
  std::vector<std::unique_ptr<PageTaker>> takers_;
  std::shared_ptr<PendingPages> pending_;
  std::unique_ptr<PageSource> source_;
};

TEST_F(TakenBackPagesTest, WhatWasWrittenSinceItWasSkippedGoesAndIsNotToldToBeZero) {
  memory_.dirty = {{0, 15, 1}, {0, 29, 3}};
  disk_.dirty = {{0, 7, 2}, {0, 50, 10}};
  Lose();
  ASSERT_EQ(source_->TakeBack(WhichParts::kAll), absl::OkStatus());
  Told told = Send(1);
  EXPECT_EQ(told[0].size(), kPages[0]);
  EXPECT_EQ(told[1].size(), kPages[1]);
  EXPECT_EQ(Count(told, 0, PageFrameType::kZero), 18u);
  EXPECT_EQ(Count(told, 1, PageFrameType::kZero), 27u);
  EXPECT_TRUE(kept_.Holds(0, 29, FakePart::ByteOf(0, 29)) && kept_.Holds(1, 55, FakePart::ByteOf(1, 55)));
  // What is written afterwards goes in a round of its own.
  disk_.dirty = {{0, 45, 1}};
  ASSERT_TRUE(source_->CollectDirty().ok());
  told = Send(2);
  EXPECT_EQ(told[0].size() + told[1].size(), 1u);
  EXPECT_EQ(told[1][45], PageFrameType::kPages);
}

TEST_F(TakenBackPagesTest, WhatWasFoundWrittenBeforeTheLossIsNotToldToBeZero) {
  ASSERT_EQ(source_->SendRound(1, AtOnce), absl::OkStatus());
  memory_.dirty = {{0, 12, 2}};
  disk_.dirty = {{0, 0, 1}};
  ASSERT_TRUE(source_->CollectDirty().ok());
  Lose();
  ASSERT_EQ(source_->TakeBack(WhichParts::kAll), absl::OkStatus());
  const Told told = Send(1);
  EXPECT_EQ(told[0].size() + told[1].size(), kPages[0] + kPages[1]);
  EXPECT_EQ(Count(told, 0, PageFrameType::kZero), 18u);
  EXPECT_EQ(Count(told, 1, PageFrameType::kZero), 37u);
}

// Lost before the first word of it arrived, and again: all is told as often as it takes.
TEST_F(TakenBackPagesTest, WhatWasToldAgainMayBeLostAgain) {
  Lose();
  ASSERT_EQ(source_->TakeBack(WhichParts::kAll), absl::OkStatus());
  disk_.dirty = {{0, 41, 1}};
  Lose();
  ASSERT_EQ(source_->TakeBack(WhichParts::kMirrored), absl::OkStatus());
  const Told told = Send(1);
  EXPECT_EQ(told[0].size() + told[1].size(), kPages[0] + kPages[1]);
  EXPECT_EQ(Count(told, 0, PageFrameType::kZero), 20u);
  EXPECT_EQ(Count(told, 1, PageFrameType::kZero), 37u);
}

using TakenBackPagesDeathTest = TakenBackPagesTest;

TEST_F(TakenBackPagesDeathTest, NothingIsFoundWrittenBetweenWhatIsSkippedAndTheEndOfItsRound) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH((void)source_->CollectDirty(), "told_skipped");
  Lose();
  ASSERT_EQ(source_->TakeBack(WhichParts::kAll), absl::OkStatus());
  EXPECT_DEATH((void)source_->CollectDirty(), "told_skipped");
  ASSERT_EQ(source_->SendRound(1, AtOnce), absl::OkStatus());
  EXPECT_TRUE(source_->CollectDirty().ok());
}

}  // namespace
}  // namespace ferrite::migration
