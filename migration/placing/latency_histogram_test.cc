#include "migration/placing/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace ferrite::migration {
namespace {

TEST(LatencyHistogramTest, QuantilesAreWithinASixteenthOfTheSortedSamples) {
  std::mt19937_64 random(7);
  std::lognormal_distribution<double> distribution(11, 2);
  LatencyHistogram histogram;
  std::vector<uint64_t> samples;
  uint64_t sum = 0;
  for (int i = 0; i < 10000; ++i) {
    samples.push_back(static_cast<uint64_t>(distribution(random)));
    sum += samples.back();
    histogram.Add(samples.back());
  }
  std::sort(samples.begin(), samples.end());
  for (const double fraction : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const auto exact = static_cast<double>(samples[static_cast<size_t>(fraction * 10000) - 1]);
    EXPECT_NEAR(static_cast<double>(histogram.Quantile(fraction)), exact, exact / 16 + 1) << fraction;
  }
  EXPECT_EQ(histogram.Quantile(1), samples.back());
  EXPECT_EQ(histogram.max(), samples.back());
  EXPECT_EQ(histogram.sum(), sum);
  EXPECT_EQ(histogram.count(), 10000u);
}

TEST(LatencyHistogramTest, TakesEveryValue) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.Quantile(0.5), 0u);
  histogram.Add(0);
  histogram.Add(~uint64_t{0});
  EXPECT_EQ(histogram.Quantile(0.5), 0u);
  EXPECT_EQ(histogram.Quantile(1), ~uint64_t{0});
}

}  // namespace
}  // namespace ferrite::migration
