// What leaves over an urgent channel for what is asked over it.
#include "migration/sending/request_server.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "memory/guest_address.h"
#include "memory/page_range.h"
#include "migration/channel/wait_set.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// Of each region: the first one's are sent one by one, the second one's by huge pages.
constexpr std::array<uint64_t, 2> kPages = {64, 64};
constexpr uint64_t kHugePages = 8;
constexpr PendingPages::Shape kShapes[] = {{.pages = kPages[0]}, {.pages = kPages[1], .pages_per_unit = kHugePages}};

class RequestServerTest : public testing::Test {
 protected:
  RequestServerTest() {
    for (size_t region = 0; region < kPages.size(); ++region) {
      pending_.pending(region).SetRange(0, kPages[region]);
    }
  }

  absl::Status Serve() {
    const auto send = [this](PageSender& sender, const PageRange& run, uint64_t pages_per_unit) {
      return part_.Send(sender, run.region, run, pages_per_unit);
    };
    return RequestServer(*ends_.sink, pending_, shared_, limiter_, clock_, figures_, {}, send).Serve();
  }
  void StartServing() {
    server_ = StartOrDie("test-serve", [this] { served_ = Serve(); });
  }
  // The destination has everything: what Serve() returns then.
  absl::Status End() {
    feed_.reset();
    server_.Join();
    return served_;
  }

  void Ask(const PageRange& run) { EXPECT_TRUE(feed_->Ask({&run, 1}).ok()); }
  // Asks for `run`, and gets it.
  void Get(const PageRange& run) {
    Ask(run);
    ExpectPages(run);
  }
  // The next frame that comes is `run`, with the bytes of its pages.
  void ExpectPages(const PageRange& run) {
    const auto header = feed_->Next(kept_);
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(*header, PagesFrame(run.region, run.first, run.count)) << header->first_page << "+" << header->count;
    for (uint64_t page = run.first; page < run.first + run.count; ++page) {
      EXPECT_TRUE(kept_.Holds(run.region, page, FakePart::ByteOf(run.region, page))) << page;
    }
  }

  FakePart part_{{kPages[0], kPages[1]}};
  PendingPages pending_{kShapes};
  RequestServer::Shared shared_;
  RateLimiter limiter_{0};
  FakeClock clock_;
  SendFigures figures_;
  PairEnds ends_ = MakePairEnds();
  KeptPages kept_{kPages};
  absl::Status served_;
  Thread server_;
  std::unique_ptr<PairPageFeed> feed_ = std::move(ends_.feed);
};

// R5. The channel is closed as soon as the last page has come: that is no error.
TEST_F(RequestServerTest, PageIsSentWhenItIsAskedForAndOnce) {
  StartServing();
  Get({0, 25, 1});
  Ask({0, 25, 1});
  Get({0, 5, 1});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.faults, 2u);
  EXPECT_EQ(figures_.requested_pages, 2u);
  EXPECT_EQ(figures_.prefetched_pages, 0u);
  EXPECT_EQ(pending_.CountPending(), kPages[0] + kPages[1] - 2);
}

TEST_F(RequestServerTest, PageThatAnotherChannelHasIsNotSentAgain) {
  ASSERT_EQ(pending_.ClaimNext(10), (PageRange{0, 0, 10}));
  StartServing();
  Ask({0, 9, 1});
  Get({0, 40, 1});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.requested_pages, 1u);
}

// A destination of smaller host pages asks for a part of what goes whole.
TEST_F(RequestServerTest, HugePageGoesWholeForAnyPartOfIt) {
  StartServing();
  Ask({1, 9, 4});
  ExpectPages({1, 8, kHugePages});
  Ask({1, 8, kHugePages});
  Get({1, 48, kHugePages});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.requested_pages, 2 * kHugePages);
}

TEST_F(RequestServerTest, SequentialReaderGetsWhatIsNear) {
  StartServing();
  Get({0, 40, 1});
  Get({0, 41, 1});
  ExpectPages({0, 42, 2});
  Get({0, 44, 1});
  ExpectPages({0, 45, 4});
  Get({0, 49, 1});
  ExpectPages({0, 50, 8});
  // There is no more than the region has.
  Get({0, 58, 1});
  ExpectPages({0, 59, 5});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.faults, 5u);
  EXPECT_EQ(figures_.requested_pages, 5u);
  EXPECT_EQ(figures_.prefetched_pages, 2u + 4 + 8 + 5);
  EXPECT_EQ(figures_.prefetch_hits, 4u);
}

// R5.
TEST_F(RequestServerTest, WhatIsNearGoesBehindAllThatIsAskedFor) {
  for (const uint64_t page : {40, 41, 7, 8}) {
    Ask({0, page, 1});
  }
  StartServing();
  ExpectPages({0, 7, 2});
  ExpectPages({0, 40, 2});
  ExpectPages({0, 9, 2});
  ExpectPages({0, 42, 2});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.prefetched_pages, 4u);
}

// R5. A piece is on its way until it is taken.
TEST_F(RequestServerTest, RequestOvertakesTheRestOfWhatIsNear) {
  StartServing();
  Get({0, 10, 1});
  for (const PageRange& near : {PageRange{0, 12, 2}, PageRange{0, 15, 4}, PageRange{0, 20, 8}}) {
    Get({0, near.first - 1, 1});
    ExpectPages(near);
  }
  Get({0, 28, 1});
  WaitSet set = *WaitSet::Create();
  ASSERT_TRUE(feed_->Join(set, 1).ok());
  ASSERT_EQ(*set.Wait(), 1u);
  Ask({0, 3, 1});
  ExpectPages({0, 29, 8});
  ExpectPages({0, 3, 1});
  ExpectPages({0, 37, 8});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.prefetched_pages, 2u + 4 + 8 + 16);
}

TEST_F(RequestServerTest, NearHugePagesGoWhenTheWindowHoldsOne) {
  StartServing();
  for (const uint64_t first : {0, 8, 16}) {
    Get({1, first, kHugePages});
  }
  Get({1, 24, kHugePages});
  ExpectPages({1, 32, kHugePages});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.prefetched_pages, kHugePages);
}

TEST_F(RequestServerTest, LimitHoldsBackOnlyWhatNobodyAskedFor) {
  limiter_.SetRate(kPageBytes);
  (void)limiter_.Take(100 * kPageBytes, clock_.Now());
  StartServing();
  for (const uint64_t page : {0, 1, 2, 3}) {
    Get({0, page, 1});
  }
  // What is near the last one was looked at when this one comes, which continues nothing.
  Get({0, 25, 1});
  clock_.Advance(absl::Seconds(100));
  Get({0, 4, 1});
  ExpectPages({0, 5, 4});
  // They were counted.
  Get({0, 9, 1});
  Get({0, 50, 1});
  EXPECT_EQ(End(), absl::OkStatus());
  EXPECT_EQ(figures_.requested_pages, 8u);
  EXPECT_EQ(figures_.prefetched_pages, 4u);
}

// R11: of a part that is mirrored nothing is missing.
TEST_F(RequestServerTest, RequestForAPageThatIsMirroredEndsTheChannel) {
  constexpr PendingPages::Shape kMirrored[] = {{.pages = 8}, {.pages = 8, .mirrored = true}};
  PendingPages pending(kMirrored);
  RequestServer server(*ends_.sink, pending, shared_, limiter_, clock_, figures_, {},
                       [](PageSender&, const PageRange&, uint64_t) { return absl::InternalError("sent"); });
  Ask({1, 3, 1});
  const absl::Status status = server.Serve();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "region 1, of which nothing is missing")) << status;
}

// Of what is near, but on its way, no word is sent.
TEST_F(RequestServerTest, NothingIsSentWhereAllThatIsNearIsOnItsWay) {
  ASSERT_EQ(pending_.ClaimRequested(0, 42, 21).count, 22u);
  int sent = 0;
  RequestServer server(*ends_.sink, pending_, shared_, limiter_, clock_, figures_, {},
                       [&](PageSender&, const PageRange& run, uint64_t) {
                         EXPECT_GT(run.count, 0u);
                         ++sent;
                         return absl::OkStatus();
                       });
  Ask({0, 40, 1});
  Ask({0, 41, 1});
  feed_.reset();
  EXPECT_EQ(server.Serve(), absl::OkStatus());
  EXPECT_EQ(sent, 1);
}

// R11.
TEST_F(RequestServerTest, RequestForWhatIsNoHostPageEndsTheChannel) {
  constexpr uint64_t kMost = ~uint64_t{0};
  const struct {
    PageRange request;
    const char* said;
  } wrong[] = {
      {{2, 0, 1}, "urgent channel: the destination sent what is no request"},
      {{0, 64, 1}, "a request for pages 64+1 outside of region 0"},
      {{0, 63, 2}, "a request for pages 63+2 outside of region 0"},
      {{1, 8, kMost}, "outside of region 1"},
      {{1, kMost, 8}, "outside of region 1"},
      {{0, 3, 2}, "a request for pages 3+2 of region 0, which are no one host page"},
      {{1, 15, 2}, "a request for pages 15+2 of region 1, which are no one host page"},
  };
  for (const auto& [request, said] : wrong) {
    Ask(request);
    const absl::Status status = Serve();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), said)) << status;
  }
  EXPECT_EQ(figures_.faults, 0u);
  EXPECT_EQ(pending_.CountPending(), kPages[0] + kPages[1]);
}

TEST_F(RequestServerTest, PagesThatCannotBeSentAreTheError) {
  part_.refuses = absl::InternalError("disk: gone");
  Ask({0, 7, 1});
  EXPECT_EQ(Serve(), part_.refuses);
  EXPECT_EQ(figures_.requested_pages, 0u);
}

}  // namespace
}  // namespace ferrite::migration
