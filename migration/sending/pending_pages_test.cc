#include "migration/sending/pending_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "memory/guest_memory.h"

namespace ferrite::migration {
namespace {

std::vector<PendingPages::Shape> Shapes(const GuestMemory& memory, uint64_t pages_per_unit, uint64_t pages_per_block) {
  std::vector<PendingPages::Shape> shapes;
  for (const auto& region : memory.regions()) {
    shapes.push_back({.pages = region->pages(), .pages_per_unit = pages_per_unit, .pages_per_block = pages_per_block});
  }
  return shapes;
}

class PendingPagesTest : public testing::Test {
 protected:
  static std::unique_ptr<GuestMemory> Memory(uint64_t bytes) {
    auto memory = GuestMemory::Create(bytes, MemoryBacking::kMemfd);
    EXPECT_TRUE(memory.ok());
    return *std::move(memory);
  }
};

TEST_F(PendingPagesTest, RoundsClaimInOrderAndOnce) {
  const auto memory = Memory(4 << 20);  // 1024 pages
  PendingPages pages(Shapes(*memory, 1, 1));
  pages.pending(0).SetRange(10, 100);
  pages.pending(0).SetRange(500, 3);
  EXPECT_EQ(pages.CountPending(), 103u);
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 10, 64}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 74, 36}));
  // Behind the cursor: for the next round.
  pages.pending(0).Set(20);
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 500, 3}));
  EXPECT_EQ(pages.ClaimNext(64), std::nullopt);
  pages.Rewind();
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 20, 1}));
  EXPECT_EQ(pages.CountPending(), 0u);
  EXPECT_EQ(pages.sent(0).Count(), 103u);
}

TEST_F(PendingPagesTest, ManyClaimersShareARoundWithoutDoubles) {
  const auto memory = Memory(64 << 20);
  PendingPages pages(Shapes(*memory, 1, 1));
  const uint64_t all = pages.pending(0).pages();
  for (uint64_t page = 0; page < all; page += 3) {
    pages.pending(0).SetRange(page, 2 < all - page ? 2 : all - page);
  }
  const uint64_t pending = pages.CountPending();
  std::atomic<uint64_t> claimed = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      while (const auto run = pages.ClaimNext(16)) {
        claimed += run->count;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(claimed, pending) << "R6";
  EXPECT_EQ(pages.CountPending(), 0u);
}

TEST_F(PendingPagesTest, RoundLeavesOutWhatIsWrittenAllTheTime) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 1));
  pages.sent(0).SetRange(0, 100);
  pages.pending(0).SetRange(50, 100);
  const auto dirty = [&](uint64_t first, uint64_t count) {
    PageBitmap found(1024);
    found.SetRange(first, count);
    return pages.Heat(0, found);
  };
  EXPECT_EQ(dirty(60, 60), 0u);
  // Of both parts, those that were not written now: what was never sent.
  EXPECT_EQ(pages.Count(RoundPages::kUnsent, 1000), 30u);
  EXPECT_EQ(pages.Count(RoundPages::kUnsent, 10), 10u);
  pages.Rewind(RoundPages::kUnsent);
  EXPECT_EQ(pages.ClaimNext(20), (PageRange{0, 120, 20}));
  EXPECT_EQ(pages.ClaimNext(20), (PageRange{0, 140, 10}));
  EXPECT_EQ(pages.ClaimNext(20), std::nullopt);
  EXPECT_EQ(pages.TakeResent(0), 0u);
  // Written again: 110 to 120. Written once, before or now, is everything else.
  EXPECT_EQ(dirty(110, 30), 10u);
  EXPECT_EQ(pages.Count(RoundPages::kUnsent, 1000), 0u) << "what is not written any more waits for another round";
  pages.Rewind(RoundPages::kQuiet);
  EXPECT_EQ(pages.ClaimNext(100), (PageRange{0, 50, 60}));
  EXPECT_EQ(pages.ClaimNext(100), std::nullopt);
  EXPECT_EQ(pages.TakeResent(0), 50u) << "50 to 100";
  EXPECT_EQ(pages.TakeResent(0), 0u);
  EXPECT_EQ(pages.CountPending(), 10u);
  pages.Rewind();
  EXPECT_EQ(pages.ClaimNext(100), (PageRange{0, 110, 10})) << "they go with the last ones";
}

// A guest whose first write to each page takes its time is found to have written a few pages here and there of what it
// writes all over.
TEST_F(PendingPagesTest, CalmIsWhatLiesInBlocksThatHardlyAnythingWasWrittenIn) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.pending(0).SetRange(0, 1024);
  const auto dirty = [&](uint64_t first, uint64_t count) {
    PageBitmap found(1024);
    found.SetRange(first, count);
    pages.Heat(0, found);
  };
  dirty(600, 7);
  EXPECT_EQ(pages.Count(RoundPages::kCalm, 2000), 1024u - 7) << "a few pages do not make a block busy";
  dirty(700, 1);
  EXPECT_EQ(pages.Count(RoundPages::kCalm, 2000), 512u) << "of two rounds";
  EXPECT_EQ(pages.Count(RoundPages::kUnsent, 2000), 1024u - 8);
  pages.Rewind(RoundPages::kCalm);
  EXPECT_EQ(pages.ClaimNext(2000), (PageRange{0, 0, 512}));
  EXPECT_EQ(pages.ClaimNext(2000), std::nullopt);
  dirty(3, 8);
  EXPECT_EQ(pages.Count(RoundPages::kCalm, 2000), 511u) << "hardly anything was written to the other one lately";
  dirty(3, 8);
  EXPECT_EQ(pages.Count(RoundPages::kCalm, 10), 10u);
  pages.Rewind(RoundPages::kCalm);
  EXPECT_EQ(pages.ClaimNext(2000), (PageRange{0, 512, 512}));
}

TEST_F(PendingPagesTest, HugePageIsWrittenAsAWhole) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 512, 512));
  pages.pending(0).SetRange(0, 1024);
  PageBitmap found(1024);
  found.Set(3);
  pages.Heat(0, found);
  EXPECT_EQ(pages.Count(RoundPages::kUnsent, 2000), 512u) << "behind the switchover it would go as a whole, too";
  pages.Rewind(RoundPages::kUnsent);
  EXPECT_EQ(pages.ClaimNext(2000), (PageRange{0, 512, 512}));
}

TEST_F(PendingPagesTest, HotBlocksGoFirstAndRequestedPagesOnce) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 64));
  PageBitmap hot(1024);
  hot.SetRange(700, 2);
  PageBitmap warm(1024);
  warm.Set(3);
  pages.Heat(0, warm);
  pages.Heat(0, hot);
  pages.pending(0).SetRange(0, 1024);
  pages.StartUnits();
  pages.OrderByHeat();
  PendingPages::Lease lease;
  PendingPages::Lease other;
  EXPECT_EQ(pages.ClaimHottest(lease, 32), (PageRange{0, 640, 32}));
  EXPECT_EQ(pages.ClaimHottest(other, 32), (PageRange{0, 0, 32})) << "a block has one claimer";
  EXPECT_EQ(pages.ClaimRequested(0, 680, 4), (PageRange{0, 680, 5}));
  EXPECT_EQ(pages.ClaimRequested(0, 682, 0).count, 0u) << "R5";
  EXPECT_EQ(pages.ClaimHottest(lease, 32), (PageRange{0, 672, 8}));
  EXPECT_EQ(pages.ClaimHottest(lease, 4), (PageRange{0, 685, 4}));
  EXPECT_EQ(pages.ClaimHottest(lease, 100), (PageRange{0, 689, 15})) << "as far as to its end";
  EXPECT_EQ(pages.ClaimHottest(lease, 100), (PageRange{0, 64, 100})) << "neighbours of one heat";
  EXPECT_EQ(pages.ClaimHottest(other, 100), (PageRange{0, 32, 32}));
  uint64_t rest = 0;
  while (const auto run = pages.ClaimHottest(lease, 512)) {
    rest += run->count;
  }
  EXPECT_EQ(rest, 1024u - 2 * 64 - 100);
  EXPECT_EQ(pages.ClaimHottest(other, 1), std::nullopt);
  EXPECT_EQ(pages.CountPending(), 0u) << "R4";
}

TEST_F(PendingPagesTest, ManyClaimersOfBlocksLeaveNothingAndTakeNothingTwice) {
  const auto memory = Memory(64 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.pending(0).SetRange(0, pages.pending(0).pages());
  pages.OrderByHeat();
  std::atomic<uint64_t> claimed = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      PendingPages::Lease lease;
      for (uint64_t page = static_cast<uint64_t>(t); page < pages.pending(0).pages(); page += 97) {
        claimed += pages.ClaimRequested(0, page, 0).count;
        if (const auto run = pages.ClaimHottest(lease, 32); run.has_value()) {
          claimed += run->count;
        }
      }
      while (const auto run = pages.ClaimHottest(lease, 32)) {
        claimed += run->count;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(claimed, pages.pending(0).pages()) << "R4, R6";
  EXPECT_EQ(pages.CountPending(), 0u);
}

TEST_F(PendingPagesTest, BlockThatIsMostlyStaleIsStaleAsAWhole) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.sent(0).SetRange(0, 1000);
  // All but 10 pages of the first block, half of what was sent of the second.
  pages.pending(0).SetRange(10, 502);
  pages.pending(0).SetRange(600, 200);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 0, 512}, {0, 600, 200}}));
  EXPECT_EQ(pages.CountPending(), 512u + 200) << "R4: what is dropped there is sent again";
  EXPECT_TRUE(pages.TakeStale().empty());
}

// What was written all the time was never sent, but for a page now and then.
TEST_F(PendingPagesTest, BlockOfWhichLittleWasSentComesWhole) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.pending(0).SetRange(0, 1024);
  pages.pending(0).ClearRange(100, 3);
  pages.sent(0).SetRange(100, 3);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 100, 3}})) << "of what was never sent nothing is there";
  EXPECT_EQ(pages.CountPending(), 1024u);
}

// R8: no page is sent for the sake of its block that was left out.
TEST_F(PendingPagesTest, BlockOfWhichSomethingWasSkippedIsNotSentWhole) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.pending(0).SetRange(0, 1024);
  pages.Skip({.region = 0, .first = 100, .count = 3});
  // A page that is in use by now is no reason.
  pages.Skip({.region = 0, .first = 700, .count = 1});
  pages.pending(0).Set(700);
  pages.pending(0).Clear(900);
  pages.sent(0).Set(900);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 700, 1}, {0, 900, 1}}));
  EXPECT_EQ(pages.CountPending(), 1024u - 3);
}

// Nor is one that was written since, and sent.
TEST_F(PendingPagesTest, PageThatWasSkippedAndIsSentIsSkippedNoMore) {
  const auto memory = Memory(2 << 20);
  PendingPages pages(Shapes(*memory, 1, 512));
  pages.Skip({.region = 0, .first = 100, .count = 1});
  pages.pending(0).Set(100);
  pages.Rewind();
  ASSERT_EQ(pages.ClaimNext(8), (PageRange{0, 100, 1}));
  pages.pending(0).SetRange(0, 100);
  pages.pending(0).SetRange(101, 411);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 100, 1}}));
  EXPECT_EQ(pages.CountPending(), 512u);
}

TEST_F(PendingPagesTest, StaleIsWhatWasSentAndIsPendingAgain) {
  const auto memory = Memory(4 << 20);
  PendingPages pages(Shapes(*memory, 1, 1));
  pages.sent(0).SetRange(0, 100);
  pages.pending(0).SetRange(90, 20);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 90, 10}}));
  EXPECT_TRUE(pages.TakeStale().empty());
}

TEST_F(PendingPagesTest, HugePagesAreDiscardedAndSentWhole) {
  const auto memory = Memory(8 << 20);  // four huge pages of 512
  PendingPages pages(Shapes(*memory, 512, 512));
  // The first: sent, one page dirty. The second: half sent. The third: sent. The fourth: nothing sent.
  pages.sent(0).SetRange(0, 512 + 256);
  pages.sent(0).SetRange(1024, 512);
  pages.pending(0).Set(7);
  pages.pending(0).SetRange(512 + 256, 256);
  pages.pending(0).SetRange(1536, 512);
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 0, 1024}}));
  pages.StartUnits();
  pages.OrderByHeat();
  PendingPages::Lease lease;
  EXPECT_EQ(pages.CountPending(), 3u * 512);
  EXPECT_EQ(pages.ClaimRequested(0, 5, 0), (PageRange{0, 0, 512}));
  EXPECT_EQ(pages.ClaimHottest(lease, 1), (PageRange{0, 512, 512}));
  EXPECT_EQ(pages.ClaimHottest(lease, 1), (PageRange{0, 1536, 512}));
  EXPECT_EQ(pages.ClaimHottest(lease, 1), std::nullopt);
}

}  // namespace
}  // namespace ferrite::migration
