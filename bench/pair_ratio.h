// What two figures that were measured in turns are beside each other.
#ifndef FERRITE_BENCH_PAIR_RATIO_H_
#define FERRITE_BENCH_PAIR_RATIO_H_

#include <cstddef>
#include <string>

namespace ferrite {

// The ratio of each pair of turns: what changes on the host meanwhile is in both.
class PairRatio {
 public:
  // Both above 0, else nothing is added.
  void Add(double ours, double theirs);

  size_t count() const { return count_; }
  // The geometric mean; 0 without a pair.
  double mean() const;
  // Its 95 % interval, by Student's t of the ratios' logarithms; from 0 to infinity with fewer than two pairs.
  double low() const;
  double high() const;
  // "0.71 (0.66 to 0.77, n 5)".
  std::string Text() const;

 private:
  // Of the logarithm of the mean.
  double HalfWidth() const;

  size_t count_ = 0;
  double sum_ = 0;
  double squares_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_PAIR_RATIO_H_
