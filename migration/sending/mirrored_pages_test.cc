// What PendingPages does with regions of mirrored parts.
#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "memory/page_bitmap.h"
#include "memory/page_range.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {
namespace {

TEST(MirroredPagesTest, MirroredRegionsGoFirstAndAllOfThem) {
  PendingPages pages(std::vector<PendingPages::Shape>{
      {.pages = 100}, {.pages = 100, .mirrored = true}, {.pages = 100}, {.pages = 100, .mirrored = true}});
  for (size_t region = 0; region < 4; ++region) {
    pages.pending(region).SetRange(0, 10 + region);
  }
  EXPECT_EQ(pages.CountPending(), 46u);
  EXPECT_EQ(pages.CountPending(WhichParts::kMirrored), 24u);
  EXPECT_EQ(pages.CountPending(WhichParts::kOthers), 22u);
  pages.Rewind(RoundPages::kAll, WhichParts::kMirrored);
  EXPECT_EQ(pages.ClaimNext(6), (PageRange{1, 0, 6}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{1, 6, 5}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{3, 0, 13}));
  EXPECT_EQ(pages.ClaimNext(64), std::nullopt);
  // What is written of them has no heat: it goes whatever else a round leaves out.
  PageBitmap dirty(100);
  dirty.SetRange(4, 4);
  for (size_t region = 0; region < 4; ++region) {
    EXPECT_EQ(pages.Heat(region, dirty), 0u);
    EXPECT_EQ(pages.Heat(region, dirty), region % 2 == 0 ? 4u : 0u);
  }
  pages.pending(1).SetRange(4, 4);
  EXPECT_EQ(pages.Count(RoundPages::kCalm, 100), 10u + 12 - 8);
  pages.Rewind(RoundPages::kCalm);
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{1, 4, 4}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 0, 4}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{0, 8, 2}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{2, 0, 4}));
  EXPECT_EQ(pages.ClaimNext(64), (PageRange{2, 8, 4}));
  EXPECT_EQ(pages.ClaimNext(64), std::nullopt);
  EXPECT_EQ(pages.TakeResent(1), 4u);
  EXPECT_EQ(pages.TakeResent(0) + pages.TakeResent(2) + pages.TakeResent(3), 0u);
}

TEST(MirroredPagesTest, NothingOfMirroredRegionsComesBehindTheSwitchover) {
  PendingPages pages(std::vector<PendingPages::Shape>{{.pages = 100}, {.pages = 100, .mirrored = true}});
  for (size_t region = 0; region < 2; ++region) {
    pages.sent(region).SetRange(0, 50);
    pages.pending(region).SetRange(20, 5);
  }
  EXPECT_EQ(pages.TakeStale(), (std::vector<PageRange>{{0, 20, 5}}));
  EXPECT_TRUE(pages.sent(1).Test(20));
  pages.OrderByHeat();
  PendingPages::Lease lease;
  EXPECT_EQ(pages.ClaimHottest(lease, 64), (PageRange{0, 20, 5}));
  EXPECT_EQ(pages.ClaimHottest(lease, 64), std::nullopt);
}

}  // namespace
}  // namespace ferrite::migration
