// Behind the switchover: what a claimer had that is gone with its connection, while others live.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "memory/page_range.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBlock = 64;

// Two regions of four blocks each, and one that is mirrored.
std::vector<PendingPages::Shape> Shapes(uint64_t pages_per_unit = 1) {
  const PendingPages::Shape memory = {.pages = 4 * kBlock, .pages_per_unit = pages_per_unit, .pages_per_block = kBlock};
  return {memory, memory, {.pages = kBlock, .pages_per_unit = 1, .pages_per_block = 1, .mirrored = true}};
}

class ReturnedPagesTest : public testing::Test {
 protected:
  explicit ReturnedPagesTest(uint64_t pages_per_unit = 1) : pages_(Shapes(pages_per_unit)) {
    for (const size_t region : {0, 1}) {
      pages_.pending(region).SetRange(0, 4 * kBlock);
    }
    pages_.OrderByHeat();
  }
  std::optional<PageRange> Claim(PendingPages::Lease& lease, uint64_t most = 512) {
    return pages_.ClaimHottest(lease, most);
  }

  PendingPages pages_;
  PendingPages::Lease first_{.owner = 0, .rest = {}}, second_{.owner = 1, .rest = {}}, third_{.owner = 2, .rest = {}};
};

TEST_F(ReturnedPagesTest, WhatIsMissingGoesAgainBeforeAllElse) {
  // All of a region is of one heat: it is leased as a whole.
  EXPECT_EQ(Claim(first_, 100), (PageRange{0, 0, 100}));
  EXPECT_EQ(Claim(second_, 10), (PageRange{1, 0, 10}));
  // Pages 90 to 99 were on their way. What was not claimed is missing, too, and so is what the other one has.
  const std::vector<PageRange> missing = {{0, 90, 166}, {1, 0, 256}};
  EXPECT_EQ(pages_.TakeBackFrom(0, missing), 10u);
  EXPECT_EQ(pages_.CountPending(), 166u + 246);
  EXPECT_EQ(Claim(third_, 100), (PageRange{0, 90, 100})) << "neighbours are leased together";
  EXPECT_EQ(Claim(second_), (PageRange{1, 10, 246})) << "its own";
  EXPECT_EQ(Claim(second_), std::nullopt);
  EXPECT_EQ(Claim(third_), (PageRange{0, 190, 66}));
  EXPECT_EQ(Claim(third_), std::nullopt);
  EXPECT_EQ(pages_.CountPending(), 0u);
}

// R6: what was asked for went over another channel, and is not lost with this one.
TEST_F(ReturnedPagesTest, WhatWasAskedForDoesNotGoAgain) {
  EXPECT_EQ(Claim(first_, 10), (PageRange{0, 0, 10}));
  EXPECT_EQ(pages_.ClaimRequested(0, 20, 3), (PageRange{0, 20, 4}));
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0).count, 0u) << "it is on its way";
  EXPECT_EQ(Claim(first_, 100), (PageRange{0, 10, 10}));
  const PageRange all = {0, 0, 256};
  EXPECT_EQ(pages_.TakeBackFrom(0, {&all, 1}), 20u);
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0), (PageRange{0, 5, 1})) << "and can be asked for";
  EXPECT_EQ(Claim(third_), (PageRange{0, 0, 5}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 6, 14}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 24, 232}));
}

// R5: a vCPU waits for it.
TEST_F(ReturnedPagesTest, WhatWasAskedForOnItsWayGoesFirst) {
  EXPECT_EQ(Claim(first_, 20), (PageRange{0, 0, 20}));
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0).count, 0u);
  EXPECT_EQ(pages_.ClaimRequested(0, 9, 0).count, 0u);
  EXPECT_EQ(pages_.ClaimNear(0, 12, 0).count, 0u) << "nobody waits for it";
  EXPECT_EQ(pages_.ClaimAwaited(1), std::nullopt) << "it may still come";
  // The other one came.
  const PageRange missing = {0, 0, 9};
  EXPECT_EQ(pages_.TakeBackFrom(0, {&missing, 1}), 9u);
  EXPECT_EQ(pages_.ClaimAwaited(1), (PageRange{0, 5, 1}));
  EXPECT_EQ(pages_.ClaimAwaited(1), std::nullopt);
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0).count, 0u) << "it is on its way";
  EXPECT_EQ(Claim(third_), (PageRange{0, 0, 5}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 6, 3}));
}

// It is lost with the channel that it went over then, and with no other one, whoever has leased what is around it.
TEST_F(ReturnedPagesTest, WhatWentFirstIsLostWithItsOwnChannel) {
  EXPECT_EQ(Claim(first_, 20), (PageRange{0, 0, 20}));
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0).count, 0u);
  const PageRange all = {0, 0, 256};
  EXPECT_EQ(pages_.TakeBackFrom(0, {&all, 1}), 20u);
  EXPECT_EQ(pages_.ClaimAwaited(1), (PageRange{0, 5, 1}));
  EXPECT_EQ(Claim(third_, 5), (PageRange{0, 0, 5}));
  EXPECT_EQ(Claim(third_, 3), (PageRange{0, 6, 3}));
  EXPECT_EQ(pages_.TakeBackFrom(2, {&all, 1}), 8u) << "all but that one";
  EXPECT_EQ(pages_.ClaimAwaited(3), std::nullopt);
  const PageRange it = {0, 5, 1};
  EXPECT_EQ(pages_.TakeBackFrom(1, {&it, 1}), 1u);
  // Whoever comes first: it is as any other one again.
  PendingPages::Lease fourth{.owner = 3, .rest = {}};
  EXPECT_EQ(Claim(fourth), (PageRange{0, 0, 256}));
  EXPECT_EQ(pages_.ClaimAwaited(4), std::nullopt) << "it was claimed";
  EXPECT_EQ(pages_.TakeBackFrom(3, {&it, 1}), 1u);
  EXPECT_EQ(pages_.ClaimAwaited(4), (PageRange{0, 5, 1}));
  // It came, and those before and behind it did not.
  const std::vector<PageRange> others = {{0, 0, 5}, {0, 6, 1}, {1, 5, 1}};
  EXPECT_EQ(pages_.TakeBackFrom(4, others), 0u);
  EXPECT_EQ(pages_.TakeBackFrom(4, {&it, 1}), 0u);
}

TEST_F(ReturnedPagesTest, NothingOfAnEndedClaimerIsTakenBackTwice) {
  EXPECT_EQ(Claim(first_), (PageRange{0, 0, 256}));
  const PageRange all = {0, 0, 256};
  EXPECT_EQ(pages_.TakeBackFrom(0, {&all, 1}), 256u);
  EXPECT_EQ(pages_.TakeBackFrom(0, {&all, 1}), 0u);
  // It broke, too.
  EXPECT_EQ(Claim(second_, 30), (PageRange{0, 0, 30}));
  EXPECT_EQ(pages_.TakeBackFrom(1, {&all, 1}), 30u);
  uint64_t count = 0;
  while (const auto run = Claim(third_)) {
    count += run->count;
  }
  EXPECT_EQ(count, 512u);
}

TEST_F(ReturnedPagesTest, WhatIsMissingIsToldInPieces) {
  EXPECT_EQ(Claim(first_), (PageRange{0, 0, 256}));
  EXPECT_EQ(pages_.ClaimRequested(0, 5, 0).count, 0u);
  const std::vector<PageRange> pieces = {{0, 0, 10}, {0, 200, 6}};
  EXPECT_EQ(pages_.TakeBackFrom(0, {&pieces[0], 1}, /*last=*/false), 10u);
  EXPECT_EQ(pages_.ClaimAwaited(1), (PageRange{0, 5, 1})) << "nobody waits for the rest";
  EXPECT_EQ(pages_.TakeBackFrom(0, {&pieces[1], 1}, /*last=*/true), 6u);
  EXPECT_EQ(Claim(third_), (PageRange{0, 0, 5}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 6, 4}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 200, 6}));
  // Of what that one has claimed for who waits, too.
  const std::vector<PageRange> others = {{0, 0, 5}, {0, 5, 1}};
  EXPECT_EQ(pages_.TakeBackFrom(1, {&others[0], 1}, /*last=*/false), 0u);
  EXPECT_EQ(pages_.TakeBackFrom(1, {&others[1], 1}, /*last=*/true), 1u);
  EXPECT_EQ(pages_.ClaimAwaited(3), (PageRange{0, 5, 1}));
}

TEST_F(ReturnedPagesTest, NothingIsMissing) {
  EXPECT_EQ(Claim(first_), (PageRange{0, 0, 256}));
  EXPECT_EQ(pages_.TakeBackFrom(0, {}), 0u);
  EXPECT_EQ(Claim(third_), (PageRange{1, 0, 256}));
  EXPECT_EQ(Claim(third_), std::nullopt);
}

class ReturnedUnitsTest : public ReturnedPagesTest {
 protected:
  ReturnedUnitsTest() : ReturnedPagesTest(/*pages_per_unit=*/8) {}
};

TEST_F(ReturnedUnitsTest, UnitThatWasAskedForGoesFirstAsAWhole) {
  EXPECT_EQ(Claim(first_, 32), (PageRange{0, 0, 32}));
  EXPECT_EQ(pages_.ClaimRequested(0, 13, 0).count, 0u);
  const std::vector<PageRange> missing = {{0, 0, 32}};
  EXPECT_EQ(pages_.TakeBackFrom(0, missing), 32u);
  EXPECT_EQ(pages_.ClaimAwaited(1), (PageRange{0, 8, 8}));
  // Any page of it says that it is missing.
  const PageRange last = {0, 15, 1};
  EXPECT_EQ(pages_.TakeBackFrom(1, {&last, 1}), 8u);
  EXPECT_EQ(Claim(third_), (PageRange{0, 0, 256}));
}

TEST_F(ReturnedUnitsTest, UnitGoesAgainAsAWhole) {
  EXPECT_EQ(Claim(first_, 32), (PageRange{0, 0, 32}));
  // Where host pages are smaller there, some of a unit may have come.
  const std::vector<PageRange> missing = {{0, 13, 2}, {0, 31, 1}};
  EXPECT_EQ(pages_.TakeBackFrom(0, missing), 16u);
  EXPECT_EQ(pages_.CountPending(), 16u + 224 + 256);
  EXPECT_EQ(Claim(third_), (PageRange{0, 8, 8}));
  EXPECT_EQ(Claim(third_), (PageRange{0, 24, 232}));
}

// So that several share what one has lost.
TEST(ReturnedLeasesTest, AreNoLargerThanOthers) {
  constexpr uint64_t kPages = 32 * kBlock;
  const std::vector<PendingPages::Shape> shapes = {{.pages = kPages, .pages_per_unit = 1, .pages_per_block = kBlock}};
  PendingPages pages(shapes);
  pages.pending(0).SetRange(0, kPages);
  pages.OrderByHeat();
  PendingPages::Lease broken{.owner = 0, .rest = {}}, lease{.owner = 1, .rest = {}};
  while (pages.ClaimHottest(broken, kPages).has_value()) {
  }
  const PageRange all = {0, 0, kPages};
  EXPECT_EQ(pages.TakeBackFrom(0, {&all, 1}), kPages);
  for (uint64_t first = 0; first < kPages; first += 512) {
    EXPECT_EQ(pages.ClaimHottest(lease, kPages), (PageRange{0, first, 512}));
  }
}

// Who is asked and who claims meanwhile: each page goes once over a channel that lives, whatever was lost.
TEST(ReturnedPagesRaceTest, EachPageGoesOnceOverChannelsThatLive) {
  constexpr uint64_t kPages = 64 * kBlock;
  const std::vector<PendingPages::Shape> shapes = {{.pages = kPages, .pages_per_unit = 1, .pages_per_block = kBlock}};
  for (uint64_t before = 0; before < 40; before += 3) {
    PendingPages pages(shapes);
    pages.pending(0).SetRange(0, kPages);
    pages.OrderByHeat();
    std::vector<std::atomic<int>> sent(kPages);
    const auto send = [&sent](const PageRange& run) {
      for (uint64_t i = 0; i < run.count; ++i) {
        ++sent[run.first + i];
      }
    };
    // The first one sends a little, which is lost.
    PendingPages::Lease broken{.owner = 0, .rest = {}};
    std::vector<std::thread> threads;
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < before; ++i) {
        (void)pages.ClaimHottest(broken, 7);
      }
      const PageRange all = {0, 0, kPages};
      (void)pages.TakeBackFrom(0, {&all, 1});
      PendingPages::Lease lease{.owner = 1, .rest = {}};
      while (const auto unit = pages.ClaimAwaited(1)) {
        send(*unit);
      }
      while (const auto run = pages.ClaimHottest(lease, 16)) {
        send(*run);
      }
    });
    threads.emplace_back([&] {
      for (uint64_t page = 0; page < kPages; page += 5) {
        send(pages.ClaimRequested(0, page, page % 3));
      }
    });
    threads.emplace_back([&] {
      PendingPages::Lease lease{.owner = 2, .rest = {}};
      while (const auto run = pages.ClaimHottest(lease, 16)) {
        send(*run);
        if (const auto unit = pages.ClaimAwaited(2)) {
          send(*unit);
        }
      }
    });
    for (std::thread& thread : threads) {
      thread.join();
    }
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(sent[page], 1) << page;
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
