#include "migration/placing/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace ferrite::migration {

int LatencyHistogram::BucketOf(uint64_t value) {
  if (value < (1 << kSubBits)) {
    return static_cast<int>(value);
  }
  const int shift = std::bit_width(value) - 1 - kSubBits;
  return ((shift + 1) << kSubBits) + static_cast<int>((value >> shift) & ((1 << kSubBits) - 1));
}

uint64_t LatencyHistogram::UpperBound(int bucket) {
  if (bucket < (1 << kSubBits)) {
    return static_cast<uint64_t>(bucket);
  }
  const int shift = (bucket >> kSubBits) - 1;
  const uint64_t low = (uint64_t{1} << kSubBits | (static_cast<uint64_t>(bucket) & ((1 << kSubBits) - 1))) << shift;
  return low + (uint64_t{1} << shift) - 1;
}

void LatencyHistogram::Add(uint64_t nanoseconds) {
  ++buckets_[BucketOf(nanoseconds)];
  ++count_;
  sum_ += nanoseconds;
  max_ = std::max(max_, nanoseconds);
}

uint64_t LatencyHistogram::Quantile(double fraction) const {
  const auto wanted = static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(count_)));
  uint64_t seen = 0;
  for (size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    seen += buckets_[bucket];
    if (seen >= wanted && buckets_[bucket] > 0) {
      return std::min(UpperBound(static_cast<int>(bucket)), max_);
    }
  }
  return max_;
}

}  // namespace ferrite::migration
