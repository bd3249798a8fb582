#include "bench/pair_ratio.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "absl/strings/str_format.h"

namespace ferrite {
namespace {

// Student's t of 0.975 for 1, 2, ... degrees of freedom.
constexpr double kStudent[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                               2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
constexpr double kNormal = 1.96;

}  // namespace

void PairRatio::Add(double ours, double theirs) {
  if (ours <= 0 || theirs <= 0) {
    return;
  }
  const double log = std::log(ours / theirs);
  ++count_;
  sum_ += log;
  squares_ += log * log;
}

double PairRatio::mean() const { return count_ == 0 ? 0 : std::exp(sum_ / static_cast<double>(count_)); }

double PairRatio::HalfWidth() const {
  if (count_ < 2) {
    return std::numeric_limits<double>::infinity();
  }
  const auto count = static_cast<double>(count_);
  const double variance = std::max(0.0, (squares_ - sum_ * sum_ / count) / (count - 1));
  const size_t freedom = count_ - 1;
  const double student = freedom <= std::size(kStudent) ? kStudent[freedom - 1] : kNormal;
  return student * std::sqrt(variance / count);
}

double PairRatio::low() const { return mean() * std::exp(-HalfWidth()); }

double PairRatio::high() const {
  return count_ < 2 ? std::numeric_limits<double>::infinity() : mean() * std::exp(HalfWidth());
}

std::string PairRatio::Text() const {
  return count_ < 2 ? absl::StrFormat("%.2f (n %d)", mean(), count_)
                    : absl::StrFormat("%.2f (%.2f to %.2f, n %d)", mean(), low(), high(), count_);
}

}  // namespace ferrite
