// Measured values, and the lines that benchmarks print: ratios first, inputs always.
#ifndef FERRITE_BENCH_SAMPLES_H_
#define FERRITE_BENCH_SAMPLES_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace ferrite {

class Samples {
 public:
  void Add(double value) { values_.push_back(value); }
  size_t count() const { return values_.size(); }
  // The value at `fraction` (0 to 1) of the sorted values; 0 without any.
  double Quantile(double fraction) const;
  double Median() const { return Quantile(0.5); }
  // "median 1.234 ms (p10 1.100, p90 1.900, n 40)".
  std::string Summary(absl::string_view unit) const;

 private:
  std::vector<double> values_;
};

// "what: 3.21 x of its peer (peer ...)" on standard output.
void PrintRatio(absl::string_view what, const Samples& ours, absl::string_view peer, const Samples& theirs,
                absl::string_view unit);

// Seconds of the monotonic clock.
double Now();

// The number after NAME= in the arguments, else `otherwise`.
int IntegerArgument(int argc, char** argv, absl::string_view name, int otherwise);

// The file of a target in the benchmark's data, under `bazel run` and in the outer machine of the nested ones.
std::string DataPath(absl::string_view path);

}  // namespace ferrite

#endif  // FERRITE_BENCH_SAMPLES_H_
