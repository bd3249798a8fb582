// What goes again when a connection is lost in the rounds: no more than may be missing, and no less (R1, R6).
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "memory/page_bitmap.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {
namespace {

class PagesOnWayTest : public testing::Test {
 protected:
  // A round over what is pending, to its end.
  uint64_t Send() {
    pages_.Rewind();
    uint64_t sent = 0;
    while (const auto run = pages_.ClaimNext(16)) {
      sent += run->count;
    }
    return sent;
  }
  std::vector<PageRange> Pending() {
    std::vector<PageRange> runs;
    pages_.Rewind();
    while (const auto run = pages_.ClaimNext(kPages)) {
      runs.push_back(*run);
    }
    return runs;
  }

  static constexpr uint64_t kPages = 256;
  static constexpr PendingPages::Shape kShapes[] = {{.pages = kPages}, {.pages = kPages, .mirrored = true}};
  PendingPages pages_{kShapes, /*can_be_lost=*/true};
};

TEST_F(PagesOnWayTest, WhatHasNotArrivedIsPendingAgain) {
  pages_.pending(0).SetRange(10, 50);
  pages_.pending(1).SetRange(20, 30);
  EXPECT_EQ(Send(), 80u);
  EXPECT_EQ(pages_.CountPending(), 0u);
  pages_.TakeBack();
  EXPECT_EQ(Pending(), (std::vector<PageRange>{{1, 20, 30}, {0, 10, 50}}));
  pages_.TakeBack();
  EXPECT_EQ(pages_.CountPending(), 80u) << "it was lost again";
}

TEST_F(PagesOnWayTest, WhatHasArrivedIsNot) {
  pages_.pending(0).SetRange(10, 50);
  (void)Send();
  pages_.AskForArrival();
  pages_.pending(0).SetRange(55, 20);
  (void)Send();
  EXPECT_TRUE(pages_.Arrived());
  EXPECT_FALSE(pages_.Arrived()) << "nothing was asked for";
  pages_.TakeBack();
  EXPECT_EQ(Pending(), (std::vector<PageRange>{{0, 55, 20}})) << "of 55 to 60 a newer copy was on its way";
  pages_.AllArrived();
  pages_.TakeBack();
  EXPECT_EQ(pages_.CountPending(), 0u);
}

TEST_F(PagesOnWayTest, WhatWasAskedForIsNotThereBeforeTheAnswer) {
  pages_.pending(0).SetRange(10, 50);
  (void)Send();
  pages_.AskForArrival();
  pages_.TakeBack();
  EXPECT_EQ(pages_.CountPending(), 50u);
}

TEST_F(PagesOnWayTest, WhatIsStillToBeSentStaysSo) {
  pages_.pending(0).SetRange(10, 50);
  pages_.Rewind();
  ASSERT_EQ(pages_.ClaimNext(16), (PageRange{0, 10, 16}));
  pages_.TakeBack();
  EXPECT_EQ(Pending(), (std::vector<PageRange>{{0, 10, 50}}));
}

// R8: what nobody needs is told, and not read.
TEST_F(PagesOnWayTest, WhatWasSkippedIsToldAgain) {
  pages_.pending(0).SetRange(0, 100);
  pages_.Skip({0, 20, 30});
  pages_.Skip({1, 5, 1});
  pages_.AskForArrival();
  pages_.Skip({0, 60, 2});
  // Written since.
  pages_.pending(0).Set(22);
  EXPECT_EQ(Send(), 69u);
  pages_.TakeBack();
  EXPECT_EQ(pages_.LostSkips(0, 0), (PageRange{0, 20, 2}));
  EXPECT_EQ(pages_.LostSkips(0, 22), (PageRange{0, 23, 27}));
  EXPECT_EQ(pages_.LostSkips(0, 50), (PageRange{0, 60, 2}));
  EXPECT_EQ(pages_.LostSkips(0, 62), std::nullopt);
  EXPECT_EQ(pages_.LostSkips(1, 0), (PageRange{1, 5, 1}));
  EXPECT_EQ(pages_.CountPending(), 69u);
  (void)Send();
  pages_.AllArrived();
  pages_.TakeBack();
  EXPECT_EQ(pages_.CountPending(), 0u);
  EXPECT_EQ(pages_.LostSkips(0, 0), std::nullopt);
}

// R1: what is told and what goes would be in one round, on any two channels.
TEST_F(PagesOnWayTest, WhatWasWrittenSinceItWasSkippedIsNotToldAgain) {
  pages_.Skip({0, 20, 30});
  pages_.Skip({1, 5, 1});
  pages_.pending(0).SetRange(18, 4);
  pages_.pending(0).Set(40);
  pages_.pending(1).Set(5);
  pages_.TakeBack();
  EXPECT_EQ(pages_.LostSkips(0, 0), (PageRange{0, 22, 18}));
  EXPECT_EQ(pages_.LostSkips(0, 40), (PageRange{0, 41, 9}));
  EXPECT_EQ(pages_.LostSkips(1, 0), std::nullopt);
  EXPECT_EQ(Pending(), (std::vector<PageRange>{{1, 5, 1}, {0, 18, 4}, {0, 40, 1}}));
  pages_.TakeBack();
  EXPECT_EQ(pages_.CountPending(), 6u);
  EXPECT_EQ(pages_.LostSkips(0, 0), (PageRange{0, 22, 18}));
}

// R1: the other side may hold them.
TEST_F(PagesOnWayTest, WhatWasToBeDiscardedIsStaleAgain) {
  pages_.pending(0).SetRange(0, 100);
  (void)Send();
  pages_.AllArrived();
  pages_.pending(0).SetRange(7, 3);
  EXPECT_EQ(pages_.TakeStale(/*can_be_lost=*/true), (std::vector<PageRange>{{0, 7, 3}}));
  EXPECT_TRUE(pages_.TakeStale().empty());
  pages_.TakeBack();
  EXPECT_EQ(pages_.TakeStale(/*can_be_lost=*/true), (std::vector<PageRange>{{0, 7, 3}}));
  pages_.AllArrived();
  pages_.TakeBack();
  EXPECT_TRUE(pages_.TakeStale().empty()) << "it is dropped there";
}

TEST_F(PagesOnWayTest, NothingIsKeptWhereNothingCanBeLost) {
  PendingPages pages(kShapes);
  pages.pending(0).SetRange(0, 100);
  pages.Rewind();
  while (pages.ClaimNext(16).has_value()) {
  }
  pages.AskForArrival();
  EXPECT_FALSE(pages.Arrived());
  pages.TakeBack();
  EXPECT_EQ(pages.CountPending(), 0u);
}

}  // namespace
}  // namespace ferrite::migration
