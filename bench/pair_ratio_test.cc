#include "bench/pair_ratio.h"

#include <gtest/gtest.h>

#include <cmath>

namespace ferrite {
namespace {

TEST(PairRatioTest, MeanIsGeometric) {
  PairRatio ratio;
  ratio.Add(1, 2);
  ratio.Add(2, 1);
  EXPECT_DOUBLE_EQ(ratio.mean(), 1);
  ratio.Add(0, 1);
  ratio.Add(1, 0);
  EXPECT_EQ(ratio.count(), 2u);
}

TEST(PairRatioTest, IntervalIsStudents) {
  PairRatio ratio;
  ratio.Add(1, 1);
  ratio.Add(std::exp(1), 1);
  ratio.Add(std::exp(2), 1);
  // Of 0, 1, 2: mean 1, deviation 1, t of two degrees 4.303.
  const double half = 4.303 / std::sqrt(3);
  EXPECT_NEAR(std::log(ratio.low()), 1 - half, 1e-9);
  EXPECT_NEAR(std::log(ratio.high()), 1 + half, 1e-9);
}

TEST(PairRatioTest, OnePairHasNoInterval) {
  PairRatio ratio;
  EXPECT_EQ(ratio.mean(), 0);
  ratio.Add(3, 4);
  EXPECT_EQ(ratio.Text(), "0.75 (n 1)");
  EXPECT_EQ(ratio.low(), 0);
  EXPECT_TRUE(std::isinf(ratio.high()));
}

}  // namespace
}  // namespace ferrite
