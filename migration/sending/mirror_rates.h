// How fast a mirror is, and how fast the disk is written to.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_RATES_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_RATES_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite::migration {

// Rates of the last second, in bytes/s, out of totals that it is told. Takes no memory. Threads: one at a time.
class MirrorRates {
 public:
  // Since the beginning; none of them falls.
  struct Totals {
    uint64_t copied = 0;  // written to the target
    uint64_t data = 0;    // of these, not as zeroes
    uint64_t dirtied = 0;
    absl::Duration busy;  // for how long something was in flight
  };
  // What came since the last time came now. `now` does not go back.
  void Note(const Totals& totals, MonotonicTime now);

  // `now` is not before the last note; so is a time of which nothing was told taken in: nothing came.
  double copied(MonotonicTime now) const;
  double dirtied(MonotonicTime now) const;
  // What could be copied of data with something in flight all the time: by the last second in which anything was. 0:
  // not known.
  double possible() const { return possible_; }

 private:
  struct Sample {
    MonotonicTime at;
    Totals totals;
  };
  // The last one that is a second old, or the first.
  const Sample& Base(MonotonicTime now) const;
  const Sample& Last() const { return samples_[(next_ - 1) % samples_.size()]; }
  double Rate(uint64_t Totals::*total, MonotonicTime now) const;

  std::array<Sample, 32> samples_;
  size_t next_ = 0;  // of all so far
  double possible_ = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_RATES_H_
