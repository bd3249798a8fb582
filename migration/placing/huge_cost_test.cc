#include "migration/placing/huge_cost.h"

#include <gtest/gtest.h>

#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

TEST(HugeCostTest, FirstBlockIsSmallAndTheNextOneIsTried) {
  HugeCost cost;
  EXPECT_FALSE(cost.WantsHuge());
  EXPECT_FALSE(cost.WantsHuge()) << "nothing is known yet";
  cost.TookSmall(absl::Microseconds(9), 1);
  EXPECT_FALSE(cost.WantsHuge()) << "one page says nothing";
  cost.TookSmall(absl::Microseconds(500), kBlockPages);
  EXPECT_TRUE(cost.WantsHuge());
}

TEST(HugeCostTest, CheaperOneIsTaken) {
  HugeCost cost;
  // 512 us for a block.
  cost.TookSmall(absl::Microseconds(32), 32);
  cost.TookHuge(absl::Microseconds(200));
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(cost.WantsHuge());
  }
}

// A thread that loses its processor while it makes a huge page, as on a busy host: the next one is as cheap as ever.
TEST(HugeCostTest, OneThatTookLongByChanceIsNoReason) {
  HugeCost cost;
  cost.TookSmall(absl::Microseconds(512), kBlockPages);
  for (int i = 0; i < 100; ++i) {
    cost.TookHuge(i % 3 == 0 ? absl::Milliseconds(10) : absl::Microseconds(200));
    EXPECT_TRUE(i == 0 || cost.WantsHuge()) << i;
  }
}

// And it is no reason for huge ones that a small block took long by chance.
TEST(HugeCostTest, SmallOneThatTookLongByChanceIsNoReason) {
  HugeCost cost;
  for (const absl::Duration small : {absl::Microseconds(512), absl::Milliseconds(40), absl::Microseconds(512)}) {
    cost.TookSmall(small, kBlockPages);
  }
  cost.TookHuge(absl::Milliseconds(5));
  EXPECT_FALSE(cost.WantsHuge());
}

// A host that has no huge page to give is asked ever less often, and one that has some again is noticed.
TEST(HugeCostTest, DearerOneIsTriedFromTimeToTime) {
  HugeCost cost;
  cost.TookSmall(absl::Microseconds(512), kBlockPages);
  cost.TookHuge(absl::Milliseconds(5));
  int tries = 0;
  for (int i = 0; i < 1000; ++i) {
    if (cost.WantsHuge()) {
      ++tries;
      cost.TookHuge(absl::Milliseconds(5));
    }
  }
  EXPECT_GE(tries, 3);
  EXPECT_LE(tries, 15) << "of a thousand blocks";
  int small = 0;
  while (!cost.WantsHuge()) {
    ASSERT_LT(++small, 200);
  }
  for (int i = 0; i < 16; ++i) {
    cost.TookHuge(absl::Microseconds(200));
  }
  EXPECT_TRUE(cost.WantsHuge());
  EXPECT_TRUE(cost.WantsHuge());
}

}  // namespace
}  // namespace ferrite::migration
