#include "bench/samples.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace ferrite {

double Samples::Quantile(double fraction) const {
  if (values_.empty()) {
    return 0;
  }
  std::vector<double> sorted = values_;
  std::sort(sorted.begin(), sorted.end());
  return sorted[static_cast<size_t>(fraction * static_cast<double>(sorted.size() - 1) + 0.5)];
}

std::string Samples::Summary(absl::string_view unit) const {
  return absl::StrFormat("median %.3f %s (p10 %.3f, p90 %.3f, n %d)", Median(), unit, Quantile(0.1), Quantile(0.9),
                         count());
}

void PrintRatio(absl::string_view what, const Samples& ours, absl::string_view peer, const Samples& theirs,
                absl::string_view unit) {
  const std::string line =
      absl::StrFormat("%s: %.2f x %s\n  ferrite: %s\n  %s: %s\n", what, ours.Median() / theirs.Median(), peer,
                      ours.Summary(unit), peer, theirs.Summary(unit));
  std::fputs(line.c_str(), stdout);
  std::fflush(stdout);
}

double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

int IntegerArgument(int argc, char** argv, absl::string_view name, int otherwise) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    int value = 0;
    if (absl::ConsumePrefix(&argument, absl::StrCat(name, "=")) && absl::SimpleAtoi(argument, &value)) {
      return value;
    }
  }
  return otherwise;
}

std::string DataPath(absl::string_view path) {
  const char* source_dir = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  return source_dir == nullptr || workspace == nullptr ? std::string(path)
                                                       : absl::StrCat(source_dir, "/", workspace, "/", path);
}

}  // namespace ferrite
