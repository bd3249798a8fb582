#include "migration/placing/doubtful_pages.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <latch>

#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

TEST(DoubtfulPagesTest, NoneIsInDoubtBeforeOneCameOtherwise) {
  DoubtfulPages pages({100, 200});
  pages.Settle({.region = 1, .first = 0, .count = 200});
  EXPECT_EQ(pages.Count(), 0u);
}

TEST(DoubtfulPagesTest, EachIsCountedOnceInItsRegion) {
  DoubtfulPages pages({100, 200});
  pages.Doubt({.region = 0, .first = 99, .count = 1});
  pages.Doubt({.region = 1, .first = 99, .count = 1});
  EXPECT_EQ(pages.Count(), 2u);
  pages.Doubt({.region = 1, .first = 60, .count = 40});
  EXPECT_EQ(pages.Count(), 41u) << "one of them again";
  pages.Doubt({.region = 1, .first = 199, .count = 1});
  EXPECT_EQ(pages.Count(), 42u);
}

// R1: what did not come again, and is not out of date, stays in doubt until somebody asks at PACKAGE.
TEST(DoubtfulPagesTest, OnlyWhatCameAgainOrWasDiscardedIsSettled) {
  DoubtfulPages pages({100, 200});
  pages.Doubt({.region = 0, .first = 10, .count = 10});
  pages.Doubt({.region = 1, .first = 10, .count = 10});
  // One comes again, among others.
  pages.Settle({.region = 0, .first = 0, .count = 11});
  EXPECT_EQ(pages.Count(), 19u);
  // A whole region is discarded.
  pages.Settle({.region = 1, .first = 0, .count = 200});
  EXPECT_EQ(pages.Count(), 9u);
  pages.Settle({.region = 0, .first = 20, .count = 80});
  EXPECT_EQ(pages.Count(), 9u) << "none of them";
  pages.Settle({.region = 0, .first = 11, .count = 9});
  EXPECT_EQ(pages.Count(), 0u);
  pages.Doubt({.region = 0, .first = 11, .count = 1});
  EXPECT_EQ(pages.Count(), 1u) << "it came otherwise once more";
}

// Two channels, whose pages are neighbours, and whose first doubts come at once.
TEST(DoubtfulPagesTest, ThreadsKeepTheirPagesApart) {
  constexpr uint64_t kPages = 1000;
  for (int i = 0; i < 50; ++i) {
    DoubtfulPages pages({kPages});
    std::latch both(2);
    const auto work = [&](uint64_t mine) {
      both.arrive_and_wait();
      for (uint64_t page = mine; page < kPages; page += 2) {
        pages.Doubt({.region = 0, .first = page, .count = 1});
        if (page % 4 < 2) {
          pages.Settle({.region = 0, .first = page, .count = 1});
        }
      }
    };
    Thread even = StartOrDie("even", [&] { work(0); });
    Thread odd = StartOrDie("odd", [&] { work(1); });
    even.Join();
    odd.Join();
    ASSERT_EQ(pages.Count(), kPages / 2);
  }
}

}  // namespace
}  // namespace ferrite::migration
