// What is decided of one second, by a table. mirror_decision_simulation_test.cc has what comes of it.
#include "migration/sending/mirror_decision.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 100 MiB/s, after 1000 MiB.
MirrorMeasures Left(uint64_t remaining_mib, double dirty_mib = 0) {
  return {.remaining_bytes = remaining_mib * kMiB,
          .copied_bytes = 1000 * kMiB,
          .possible_rate = 100.0 * kMiB,
          .dirty_rate = dirty_mib * kMiB};
}

MirrorMeasures With(MirrorMeasures measures, void (*change)(MirrorMeasures&)) {
  change(measures);
  return measures;
}

TEST(MirrorDecisionTest, DecidesByTable) {
  const struct {
    const char* name;
    MirrorMeasures measures;
    bool fits = false, futile = false;
  } cases[] = {
      {"nothing is left", Left(0, 1000), true},
      {"nothing is left and nothing is known", {}, true},
      {"fits just so", Left(5, 1000), true},
      {"does not fit just so", Left(6)},
      {"no rate is known", With(Left(1), [](MirrorMeasures& m) { m.possible_rate = 0; })},
      {"no rate is known, and it is written", With(Left(1, 1), [](MirrorMeasures& m) { m.possible_rate = 0; }), false,
       true},
      {"the rate is of less than what is left", With(Left(5), [](MirrorMeasures& m) { m.copied_bytes = 4 * kMiB; })},
      {"is written more slowly", Left(500, 69)},
      {"is written nearly as fast", Left(500, 71), false, true},
      {"is written faster", Left(500, 500), false, true},
      {"is written faster in the first pass", With(Left(500, 500), [](MirrorMeasures& m) { m.first_pass = true; })},
      {"is limited to less than what is written",
       With(Left(500, 30), [](MirrorMeasures& m) { m.max_bandwidth = 40 * kMiB; }), false, true},
      {"is limited to more", With(Left(500, 30), [](MirrorMeasures& m) { m.max_bandwidth = 50 * kMiB; })},
      {"the limit is above what is possible",
       With(Left(500, 80), [](MirrorMeasures& m) { m.max_bandwidth = 500 * kMiB; }), false, true},
      {"a limit does not count when it is drained",
       With(Left(5, 30), [](MirrorMeasures& m) { m.max_bandwidth = kMiB; }), true},
      {"some of what fits fails", With(Left(5, 30), [](MirrorMeasures& m) { m.failing = true; })},
      {"is written faster, and some of it fails", With(Left(500, 500), [](MirrorMeasures& m) { m.failing = true; })},
  };
  for (const auto& one : cases) {
    EXPECT_EQ(FitsDowntime(one.measures, absl::Milliseconds(50)), one.fits) << one.name;
    EXPECT_EQ(IsFutile(one.measures, absl::Milliseconds(50)), one.futile) << one.name;
  }
}

TEST(MirrorDecisionTest, TellsTheTimeToDrain) {
  EXPECT_EQ(TimeToDrain(Left(50)), absl::Milliseconds(500));
  EXPECT_EQ(TimeToDrain(Left(0)), absl::ZeroDuration());
  EXPECT_EQ(TimeToDrain({.remaining_bytes = 1}), absl::InfiniteDuration());
  EXPECT_EQ(TimeToDrain(With(Left(50), [](MirrorMeasures& m) { m.failing = true; })), absl::InfiniteDuration());
}

}  // namespace
}  // namespace ferrite::migration
