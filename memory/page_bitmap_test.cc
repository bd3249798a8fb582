#include "memory/page_bitmap.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace ferrite {
namespace {

TEST(PageBitmapTest, HoldsItsPagesAndNothingElse) {
  PageBitmap bitmap(130);
  EXPECT_EQ(bitmap.pages(), 130u);
  EXPECT_EQ(bitmap.words(), 3u);
  EXPECT_EQ(bitmap.Count(), 0u);
  EXPECT_EQ(bitmap.FindClear(0), 0u);
  bitmap.SetRange(0, 130);
  EXPECT_EQ(bitmap.Count(), 130u);
  EXPECT_EQ(bitmap.Word(2), 3u);
  EXPECT_EQ(bitmap.FindClear(0), std::nullopt);
  EXPECT_EQ(bitmap.FindSet(129), 129u);
  EXPECT_EQ(bitmap.FindSet(130), std::nullopt);
  EXPECT_EQ(bitmap.FindSet(~uint64_t{0}), std::nullopt);
  EXPECT_EQ(bitmap.FindClear(~uint64_t{0}), std::nullopt);
}

TEST(PageBitmapTest, OfNoPagesIsEmpty) {
  PageBitmap bitmap(0);
  PageBitmap other(0);
  EXPECT_EQ(bitmap.Count(), 0u);
  EXPECT_EQ(bitmap.Count(), 0u);
  EXPECT_EQ(bitmap.FindClear(0), std::nullopt);
  bitmap.SetRange(0, 0);
  bitmap.TakeInto(other);
  const uint64_t words[] = {~uint64_t{0}};
  bitmap.OrWords(words);
  EXPECT_EQ(bitmap.Count(), 0u);
}

TEST(PageBitmapTest, SetAndClearTellWhatWasThere) {
  PageBitmap bitmap(100);
  EXPECT_FALSE(bitmap.Set(64));
  EXPECT_TRUE(bitmap.Set(64));
  EXPECT_TRUE(bitmap.Clear(64));
  EXPECT_FALSE(bitmap.Clear(64));
}

TEST(PageBitmapTest, EqualsANaiveModel) {
  std::mt19937_64 random(7);
  for (const uint64_t pages : {1u, 63u, 64u, 65u, 128u, 1000u}) {
    PageBitmap bitmap(pages);
    std::vector<bool> model(pages);
    for (int step = 0; step < 2000; ++step) {
      const uint64_t first = random() % (pages + 1);
      const uint64_t count = random() % (pages - first + 1);
      const bool set = random() % 2 == 0;
      set ? bitmap.SetRange(first, count) : bitmap.ClearRange(first, count);
      for (uint64_t page = first; page < first + count; ++page) {
        model[page] = set;
      }
      const uint64_t from = random() % pages;
      std::optional<uint64_t> next_set;
      std::optional<uint64_t> next_clear;
      uint64_t total = 0;
      for (uint64_t page = pages; page-- > 0;) {
        total += model[page];
        if (page >= from) {
          (model[page] ? next_set : next_clear) = page;
        }
      }
      ASSERT_EQ(bitmap.FindSet(from), next_set) << "pages " << pages << " step " << step;
      ASSERT_EQ(bitmap.FindClear(from), next_clear) << "pages " << pages << " step " << step;
      ASSERT_EQ(bitmap.Count(), total) << "pages " << pages << " step " << step;
    }
  }
}

TEST(PageBitmapTest, OrWordsIgnoresBitsPastTheEnd) {
  PageBitmap bitmap(70);
  const uint64_t words[] = {uint64_t{1} << 63, ~uint64_t{0}, ~uint64_t{0}};
  bitmap.OrWords(words);
  EXPECT_EQ(bitmap.Count(), 7u);
  EXPECT_EQ(bitmap.FindSet(0), 63u);
  EXPECT_EQ(bitmap.Word(1), 0x3fu);
}

TEST(PageBitmapTest, OrWordsTakesFewerWordsThanThereAre) {
  PageBitmap bitmap(200);
  bitmap.Set(199);
  const uint64_t words[] = {5};
  bitmap.OrWords(words);
  EXPECT_TRUE(bitmap.Test(0));
  EXPECT_TRUE(bitmap.Test(2));
  EXPECT_TRUE(bitmap.Test(199));
  EXPECT_EQ(bitmap.Count(), 3u);
}

TEST(PageBitmapTest, TakeIntoAddsAndClears) {
  PageBitmap from(128);
  PageBitmap into(128);
  from.Set(1);
  from.Set(127);
  into.Set(2);
  from.TakeInto(into);
  EXPECT_EQ(from.Count(), 0u);
  EXPECT_EQ(into.Count(), 3u);
  EXPECT_TRUE(into.Test(127));
}

// What is written before a bit is set is seen by whoever takes the bit: otherwise a move would send an old page and
// never look again. Also the test that the thread sanitizer judges.
TEST(PageBitmapTest, NoBitAndNoWriteIsLostBetweenSetAndTake) {
  constexpr uint64_t kPages = 256;
  constexpr uint64_t kWritesPerPage = 400;
  PageBitmap dirty(kPages);
  auto memory = std::make_unique<std::atomic<uint64_t>[]>(kPages);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (uint64_t value = 1; value <= kWritesPerPage; ++value) {
      for (uint64_t page = 0; page < kPages; page += 2) {
        memory[page].store(value, std::memory_order_relaxed);
        dirty.Set(page);
      }
      for (uint64_t page = 1; page < kPages; page += 2) {
        memory[page].store(value, std::memory_order_relaxed);
      }
      dirty.SetRange(0, kPages);
    }
    done.store(true, std::memory_order_release);
  });
  std::vector<uint64_t> sent(kPages);
  PageBitmap round(kPages);
  for (bool last = false; !last;) {
    last = done.load(std::memory_order_acquire);
    dirty.TakeInto(round);
    for (auto page = round.FindSet(0); page.has_value(); page = round.FindSet(*page + 1)) {
      sent[*page] = memory[*page].load(std::memory_order_relaxed);
    }
    round.ClearAll();
  }
  writer.join();
  for (uint64_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(sent[page], kWritesPerPage) << "page " << page;
  }
}

TEST(PageBitmapDeathTest, ARangeOutsideIsOurOwnMistake) {
  PageBitmap bitmap(64);
  EXPECT_DEATH(bitmap.Set(64), "broken invariant");
  EXPECT_DEATH(bitmap.SetRange(1, 64), "broken invariant");
  EXPECT_DEATH(bitmap.SetRange(2, ~uint64_t{0}), "broken invariant");
}

}  // namespace
}  // namespace ferrite
