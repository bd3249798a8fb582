// How long things took.
#ifndef FERRITE_TESTS_GUEST_RUNTIME_DURATIONS_H_
#define FERRITE_TESTS_GUEST_RUNTIME_DURATIONS_H_

#include <cstdint>

namespace guest {

// A histogram: 16 buckets for each power of two of nanoseconds. What is shorter than 16 ns counts as that.
struct Durations {
  static constexpr int kSubBits = 4;
  uint32_t buckets[64 << kSubBits];
  uint64_t count;
  uint64_t sum;
  uint64_t longest;

  void Add(uint64_t ns) {
    const uint64_t counted = ns < 1 << kSubBits ? 1 << kSubBits : ns;
    const int shift = 63 - __builtin_clzll(counted) - kSubBits;
    ++buckets[(shift << kSubBits) + static_cast<int>(counted >> shift)];
    ++count;
    sum += ns;
    longest = ns > longest ? ns : longest;
  }
  // The upper bound of the bucket that holds the value.
  uint64_t Quantile(uint64_t percent) const {
    uint64_t seen = 0;
    for (uint64_t bucket = 1 << kSubBits; bucket < sizeof(buckets) / sizeof(buckets[0]); ++bucket) {
      seen += buckets[bucket];
      if (seen * 100 >= count * percent && seen > 0) {
        const uint64_t shift = (bucket >> kSubBits) - 1;
        return ((1 << kSubBits | (bucket & ((1 << kSubBits) - 1))) + 1) << shift;
      }
    }
    return 0;
  }
};

}  // namespace guest

#endif  // FERRITE_TESTS_GUEST_RUNTIME_DURATIONS_H_
