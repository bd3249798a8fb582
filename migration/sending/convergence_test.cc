#include "migration/sending/convergence.h"

#include <gtest/gtest.h>

#include "migration/api/move_options.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 100 MiB/s.
RoundFigures Round(uint64_t sent_mib, uint64_t remaining_mib, int throttle = 0) {
  return {.number = 1,
          .bytes_sent = sent_mib * kMiB,
          .took = absl::Milliseconds(10 * sent_mib),
          .remaining_bytes = remaining_mib * kMiB,
          .throttle_percent = throttle};
}

struct Case {
  const char* name;
  RoundFigures before;
  bool has_before;
  RoundFigures now;
  ConvergenceLimits limits;
  NextStep step;
  int throttle;
};

TEST(ConvergenceTest, DecidesByTable) {
  const ConvergenceLimits automatic{.downtime_limit = absl::Milliseconds(100)};
  ConvergenceLimits precopy = automatic;
  precopy.mode = MoveMode::kPrecopy;
  ConvergenceLimits no_postcopy = automatic;
  no_postcopy.postcopy_possible = false;
  ConvergenceLimits slow_load = automatic;
  slow_load.fixed_downtime = absl::Milliseconds(95);
  ConvergenceLimits slow_precopy = slow_load;
  slow_precopy.mode = MoveMode::kPrecopy;
  const Case cases[] = {
      {"nothing left", {}, false, Round(1000, 0), automatic, NextStep::kSwitchover, 0},
      {"the rest fits", {}, false, Round(1000, 9), automatic, NextStep::kSwitchover, 0},
      {"the rest fits but the load does not", {}, false, Round(1000, 9), slow_load, NextStep::kRound, 0},
      {"converges", {}, false, Round(1000, 300), automatic, NextStep::kRound, 0},
      {"converges still", Round(1000, 300), true, Round(300, 200), automatic, NextStep::kRound, 0},
      {"stops converging", Round(1000, 300), true, Round(300, 290), automatic, NextStep::kPostcopy, 0},
      {"never did", {}, false, Round(1000, 900), automatic, NextStep::kPostcopy, 0},
      {"pre-copy throttles", Round(1000, 300), true, Round(300, 290), precopy, NextStep::kThrottle, 20},
      {"and more", Round(300, 290, 20), true, Round(290, 280, 20), precopy, NextStep::kThrottle, 30},
      {"to an end", Round(300, 290, 95), true, Round(290, 280, 95), precopy, NextStep::kThrottle, 99},
      {"throttles while the load does not fit", Round(1000, 9, 95), true, Round(1000, 9, 95), slow_precopy,
       NextStep::kThrottle, 99},
      {"goes over when nothing more can be done", Round(1000, 9, 99), true, Round(1000, 9, 99), slow_precopy,
       NextStep::kSwitchover, 99},
      {"but not with more than the limit", Round(1000, 101, 99), true, Round(1000, 101, 99), slow_precopy,
       NextStep::kThrottle, 99},
      {"keeps a throttle that helps", Round(300, 290, 30), true, Round(290, 100, 30), precopy, NextStep::kRound, 30},
      {"auto without post-copy throttles", {}, false, Round(1000, 900), no_postcopy, NextStep::kThrottle, 20},
  };
  for (const Case& c : cases) {
    const Decision decision = DecideNext(c.now, c.has_before ? &c.before : nullptr, c.limits);
    EXPECT_EQ(decision.step, c.step) << c.name;
    EXPECT_EQ(decision.throttle_percent, c.throttle) << c.name;
  }
}

TEST(ConvergenceTest, ExpectedDowntimeIsRestOverRateAndFixedCost) {
  ConvergenceLimits limits;
  limits.fixed_downtime = absl::Milliseconds(5);
  const Decision decision = DecideNext(Round(1000, 50), nullptr, limits);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(decision.expected_downtime), 505, 1);
}

}  // namespace
}  // namespace ferrite::migration
