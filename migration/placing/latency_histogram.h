// Times of waiting: a histogram with a relative error of 1/16.
#ifndef FERRITE_MIGRATION_PLACING_LATENCY_HISTOGRAM_H_
#define FERRITE_MIGRATION_PLACING_LATENCY_HISTOGRAM_H_

#include <array>
#include <cstdint>

namespace ferrite::migration {

// Not thread-safe. Nanoseconds.
class LatencyHistogram {
 public:
  void Add(uint64_t nanoseconds);

  uint64_t count() const { return count_; }
  uint64_t sum() const { return sum_; }
  uint64_t max() const { return max_; }
  // The value that `fraction` (0 to 1) of the samples do not exceed; 0 without samples.
  uint64_t Quantile(double fraction) const;

 private:
  // 16 buckets for each power of two.
  static constexpr int kSubBits = 4;
  static int BucketOf(uint64_t value);
  static uint64_t UpperBound(int bucket);

  std::array<uint64_t, 64 << kSubBits> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t max_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_LATENCY_HISTOGRAM_H_
