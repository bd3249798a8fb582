// What is decided after a round over mirrored parts, by a table.
#include "migration/sending/mirrored_rounds.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 100 MiB/s.
MirroredRound Round(uint64_t sent_mib, uint64_t remaining_mib) {
  return {.sent_bytes = sent_mib * kMiB,
          .wire_bytes = sent_mib * kMiB,
          .took = absl::Milliseconds(10 * sent_mib),
          .remaining_bytes = remaining_mib * kMiB};
}

MirroredTrend After(uint64_t least_mib, int in_vain = 0, bool blocking = false) {
  return {.rate = 100.0 * kMiB,
          .last_rate = 100.0 * kMiB,
          .least_bytes = least_mib * kMiB,
          .in_vain = in_vain,
          .blocking = blocking};
}

struct Case {
  const char* name;
  MirroredTrend before;
  MirroredRound now;
  MirroredStep step;
  int in_vain = 0;
  bool blocking = false;
};

TEST(MirrorDecisionTest, DecidesByTable) {
  // 10 MiB, or 8 MiB beside what cannot be lowered.
  const MirroredLimits limits{.downtime_limit = absl::Milliseconds(100), .fixed_downtime = absl::Milliseconds(20)};
  MirroredRound slow = Round(1, 8);
  slow.took = absl::Seconds(1);
  MirroredRound zeros = Round(1000, 9);
  zeros.wire_bytes = 1 * kMiB;
  zeros.took = absl::Milliseconds(10);
  MirroredRound trimmed = Round(1000, 20);
  trimmed.wire_bytes = kMiB / 2;
  trimmed.took = absl::Milliseconds(100);
  MirroredRound few_zeros = Round(32, 8);
  few_zeros.wire_bytes = 30 * kMiB;
  const Case cases[] = {
      {"nothing is left", {}, Round(1000, 0), MirroredStep::kReady},
      {"nothing was there", {}, {}, MirroredStep::kReady},
      {"the rest fits", {}, Round(1000, 8), MirroredStep::kReady},
      {"the rest fits, but not beside the load", {}, Round(1000, 9), MirroredStep::kRound},
      {"the first pass helps whatever it leaves", {}, Round(1000, 999), MirroredStep::kRound},
      {"zeroes are no measure of the wire", {}, zeros, MirroredStep::kRound},
      {"nor when what was written goes again", After(100), trimmed, MirroredStep::kRound},
      {"a few among data do not matter", After(100), few_zeros, MirroredStep::kReady},
      {"a slow round does not make the channel slower", After(100), slow, MirroredStep::kReady},
      {"helps", After(100), Round(100, 70), MirroredStep::kRound},
      {"helps, behind one that did not", After(100, 2), Round(100, 70), MirroredStep::kRound},
      {"does not help", After(100), Round(100, 71), MirroredStep::kRound, 1},
      {"helps no more than one before it", After(50, 1), Round(100, 40), MirroredStep::kRound, 2},
      {"thrice", After(100, 2), Round(100, 71), MirroredStep::kBlock, 0, true},
      {"thrice, but it fits the limit by itself", After(10, 2), Round(100, 10), MirroredStep::kReady, 3},
      {"blocked, it helps", After(71, 0, true), Round(71, 40), MirroredStep::kRound, 0, true},
      {"blocked, it does not help", After(71, 1, true), Round(71, 60), MirroredStep::kRound, 2, true},
      {"blocked, thrice", After(71, 2, true), Round(71, 60), MirroredStep::kGiveUp, 3, true},
      {"blocked, thrice, but it fits", After(71, 2, true), Round(71, 8), MirroredStep::kReady, 2, true},
  };
  for (const Case& c : cases) {
    const MirroredDecision decision = DecideMirroredRound(c.now, c.before, limits);
    EXPECT_EQ(decision.step, c.step) << c.name;
    EXPECT_EQ(decision.trend.in_vain, c.in_vain) << c.name;
    EXPECT_EQ(decision.trend.blocking, c.blocking) << c.name;
  }
}

TEST(MirrorDecisionTest, SaysHowLongTheRestTakesAtTheRateOfTheFasterOneOfTwoRounds) {
  MirroredTrend trend;
  const auto after = [&](absl::Duration took, uint64_t wire_mib = 50) {
    MirroredRound round = Round(50, 50);
    round.wire_bytes = wire_mib * kMiB;
    round.took = took;
    const MirroredDecision decision = DecideMirroredRound(round, trend, {});
    trend = decision.trend;
    return absl::ToDoubleMilliseconds(decision.last_bytes);
  };
  EXPECT_NEAR(after(absl::Milliseconds(500)), 500, 1);
  EXPECT_NEAR(after(absl::Seconds(5)), 500, 1);
  EXPECT_NEAR(after(absl::Seconds(4)), 4000, 1) << "what was fast once need not be so any more";
  EXPECT_NEAR(after(absl::Milliseconds(50)), 50, 1);
  EXPECT_NEAR(after(absl::Milliseconds(1), 0), 50, 1) << "zeroes alone say nothing of it";
  EXPECT_NEAR(after(absl::Milliseconds(500)), 50, 1);
  EXPECT_NEAR(after(absl::Milliseconds(500)), 500, 1);
}

// Whatever is written, and however it changes: the rounds have an end.
TEST(MirrorDecisionTest, RoundsHaveAnEnd) {
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    uint64_t random = seed * 0x9e3779b97f4a7c15;
    MirroredTrend trend;
    uint64_t left = 1 << 20;
    int rounds = 0;
    while (true) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      const uint64_t sent = left;
      left = 101 + random % (seed % 2 == 0 ? left + 1 : 1 << 20);
      const MirroredDecision decision = DecideMirroredRound(Round(sent, left), trend, {});
      trend = decision.trend;
      if (decision.step == MirroredStep::kReady || decision.step == MirroredStep::kGiveUp) {
        break;
      }
      ASSERT_LT(++rounds, 200) << seed;
    }
    EXPECT_TRUE(trend.blocking) << "more than the limit is always left, and it was not blocked";
  }
}

}  // namespace
}  // namespace ferrite::migration
