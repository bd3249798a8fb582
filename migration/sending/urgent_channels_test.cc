// What leaves over several urgent channels, and beside them.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/monotonic.h"
#include "memory/page_range.h"
#include "migration/api/move_options.h"
#include "migration/channel/wait_set.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/page_source.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/requests_first.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

// Of each region: the first one's are sent one by one, the second one's by huge pages.
constexpr uint64_t kHugePages = 8;
constexpr std::array<uint64_t, 2> kPages = {256, 64};
constexpr std::array<uint64_t, 2> kPagesPerUnit = {1, kHugePages};

class UrgentChannelsTest : public testing::Test {
 protected:
  // With one page channel, and what is to be sent.
  void Open(size_t urgent) {
    TakenChannels taken = MakeTakenChannels(1, kept_);
    takers_ = std::move(taken.takers);
    PageSource::Channels sinks;
    sinks.page = std::move(taken.sinks);
    for (size_t i = 0; i < urgent; ++i) {
      PairEnds ends = MakePairEnds();
      sinks.urgent.push_back(std::move(ends.sink));
      feeds_.push_back(std::move(ends.feed));
    }
    source_ = *PageSource::Create(host_.get(), {&part_}, kPagesPerUnit, std::move(sinks), options_, figures_,
                                  [](const absl::Status&) {});
    source_->MakePending({0, 0, kPages[0]});
    source_->MakePending({1, 0, kPages[1]});
    source_->StartPostcopy();
  }
  void Ask(size_t channel, const PageRange& run) { EXPECT_TRUE(feeds_[channel]->Ask({&run, 1}).ok()); }
  void ExpectPages(size_t channel, const PageRange& run) {
    const auto header = feeds_[channel]->Next(kept_);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(*header, PagesFrame(run.region, run.first, run.count)) << header->first_page << "+" << header->count;
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  FakePart part_{{kPages[0], kPages[1]}};
  MoveOptions options_;
  SendFigures figures_;
  KeptPages kept_{kPages};
  std::vector<std::unique_ptr<PageTaker>> takers_;
  std::vector<std::unique_ptr<PairPageFeed>> feeds_;
  std::unique_ptr<PageSource> source_;
};

// Whichever fault thread gets a fault asks over its own channel.
TEST_F(UrgentChannelsTest, SequentialReaderIsFollowedOverAllChannels) {
  Open(2);
  Ask(0, {0, 10, 1});
  ExpectPages(0, {0, 10, 1});
  Ask(1, {0, 11, 1});
  ExpectPages(1, {0, 11, 1});
  ExpectPages(1, {0, 12, 2});
  Ask(0, {0, 14, 1});
  ExpectPages(0, {0, 14, 1});
  ExpectPages(0, {0, 15, 4});
  Ask(1, {0, 19, 1});
  ExpectPages(1, {0, 19, 1});
  ExpectPages(1, {0, 20, 8});
  EXPECT_EQ(figures_.prefetch_hits, 3u);
}

// R6. The channel that has it may have stalled: nothing of it had come when it was asked for again.
TEST_F(UrgentChannelsTest, PageThatIsAskedForAgainGoesOverAnUrgentChannelTooOnce) {
  Open(2);
  ASSERT_EQ(source_->pending()->ClaimNext(10), (PageRange{0, 0, 10}));
  Ask(0, {0, 9, 1});
  Ask(0, {0, 40, 1});
  ExpectPages(0, {0, 40, 1});
  EXPECT_EQ(figures_.resent_pages, 0u);
  Ask(0, {0, 9, 1});
  ExpectPages(0, {0, 9, 1});
  Ask(1, {0, 9, 1});
  // What went over an urgent channel is on its way there.
  Ask(1, {0, 40, 1});
  Ask(1, {0, 60, 1});
  ExpectPages(1, {0, 60, 1});
  EXPECT_EQ(figures_.resent_pages, 1u);
  EXPECT_EQ(figures_.faults, 3u);
}

// A destination of smaller host pages asks for each once.
TEST_F(UrgentChannelsTest, PartsOfAHugePageThatAnotherChannelHasAreNoRepetition) {
  Open(1);
  ASSERT_EQ(source_->pending()->ClaimRequested(0, 0, kPages[0] - 1).count, kPages[0]);
  PendingPages::Lease lease;
  source_->pending()->OrderByHeat();
  ASSERT_EQ(source_->pending()->ClaimHottest(lease, 64), (PageRange{1, 0, 64}));
  for (const uint64_t page : {9, 8, 12}) {
    Ask(0, {1, page, 1});
  }
  Ask(0, {1, 12, 1});
  ExpectPages(0, {1, 8, kHugePages});
  EXPECT_EQ(figures_.resent_pages, kHugePages);
}

// R5. An answer is on its way until it is taken.
class BulkTest : public UrgentChannelsTest {
 protected:
  void SetUp() override {
    Open(1);
    Ask(0, {0, 200, 1});
    ASSERT_TRUE(feeds_[0]->Join(set_, 1).ok());
    ASSERT_EQ(*set_.Wait(), 1u);
    source_->StartRest();
    ASSERT_TRUE(clock_.AwaitWaiting(1));
    EXPECT_FALSE(takers_[0]->HasFrame());
  }

  WaitSet set_ = *WaitSet::Create();
};

TEST_F(BulkTest, ClaimsNothingWhileARequestIsAnswered) {
  const MonotonicTime start = clock_.Now();
  ExpectPages(0, {0, 200, 1});
  EXPECT_EQ(takers_[0]->AwaitFrame().first_page, 0u);
  EXPECT_EQ(clock_.Now(), start);
}

TEST_F(BulkTest, DoesNotStarve) {
  clock_.Advance(RequestsFirst::kMost);
  EXPECT_EQ(takers_[0]->AwaitFrame().first_page, 0u);
  ExpectPages(0, {0, 200, 1});
}

}  // namespace
}  // namespace ferrite::migration
