// What is decided after a round, by a table. convergence_simulation_test.cc has what comes of it.
#include "migration/sending/convergence.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/sending/pending_pages.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// 100 MiB/s, after all memory was sent once.
RoundFigures Round(uint64_t sent_mib, uint64_t remaining_mib, uint64_t again_mib = 0, int throttle = 0) {
  return {.pages = RoundPages::kAll,
          .sent_bytes = sent_mib * kMiB,
          .wire_bytes = sent_mib * kMiB,
          .all_sent_bytes = 1000 * kMiB,
          .took = absl::Milliseconds(10 * sent_mib),
          .dirtied_bytes = remaining_mib * kMiB,
          .again_bytes = again_mib * kMiB,
          .remaining_bytes = remaining_mib * kMiB,
          .throttle_percent = throttle};
}

RoundFigures Futile(RoundFigures round) {
  round.futile = true;
  return round;
}

// A part of what goes for the first time; 500 MiB are left of it.
RoundFigures Part(uint64_t sent_mib, uint64_t dirtied_mib, uint64_t again_mib = 0) {
  RoundFigures part = Round(sent_mib, 500 + dirtied_mib, again_mib);
  part.pages = RoundPages::kUnsent;
  part.all_sent_bytes = part.sent_bytes;
  part.dirtied_bytes = dirtied_mib * kMiB;
  part.unsent_bytes = 500 * kMiB;
  return part;
}

// As much of it calm as the next part sends.
RoundFigures Calm(RoundFigures part) {
  part.pages = RoundPages::kCalm;
  part.calm_bytes = 100 * kMiB;
  return part;
}

struct Case {
  const char* name;
  std::optional<RoundFigures> before;
  RoundFigures now;
  ConvergenceLimits limits;
  NextStep step;
  int throttle = 0;
  RoundPages pages = RoundPages::kAll;
};

constexpr RoundPages kAll = RoundPages::kAll;
constexpr RoundPages kQuiet = RoundPages::kQuiet;
constexpr RoundPages kUnsent = RoundPages::kUnsent;
constexpr RoundPages kCalm = RoundPages::kCalm;

TEST(ConvergenceTest, DecidesByTable) {
  const ConvergenceLimits automatic{.downtime_limit = absl::Milliseconds(100), .memory_bytes = 1000 * kMiB};
  ConvergenceLimits precopy = automatic;
  precopy.mode = MoveMode::kPrecopy;
  ConvergenceLimits no_postcopy = automatic;
  no_postcopy.postcopy_possible = false;
  ConvergenceLimits slow_load = automatic;
  slow_load.fixed_downtime = absl::Milliseconds(95);
  ConvergenceLimits slow_precopy = slow_load;
  slow_precopy.mode = MoveMode::kPrecopy;
  RoundFigures zeros = Round(400, 100);
  zeros.wire_bytes = kMiB;
  zeros.took = absl::Milliseconds(400);
  RoundFigures few_sent = Round(5, 9);
  few_sent.all_sent_bytes = 5 * kMiB;
  RoundFigures in_vain = Part(31, 130);
  in_vain.all_sent_bytes = 500 * kMiB;
  in_vain.dirtied_bytes = 30 * kMiB;
  RoundFigures was_in_vain = in_vain;
  was_in_vain.again_bytes = 20 * kMiB;
  const Case cases[] = {
      {"nothing left", {}, Round(1000, 0), automatic, NextStep::kSwitchover, 0, kQuiet},
      {"the rest fits", {}, Round(1000, 9), automatic, NextStep::kSwitchover, 0, kQuiet},
      {"the rest fits but the load does not", {}, Round(1000, 9), slow_load, NextStep::kRound, 0, kQuiet},
      {"the rest fits by a rate of less than it", {}, few_sent, automatic, NextStep::kRound, 0, kQuiet},
      {"zero pages take no time of the wire", {}, zeros, automatic, NextStep::kSwitchover, 0, kQuiet},
      {"converges", {}, Round(1000, 300), automatic, NextStep::kRound, 0, kQuiet},
      {"converges still", Round(1000, 300), Round(300, 200), automatic, NextStep::kRound, 0, kQuiet},
      {"stops converging", Round(900, 75), Round(60, 70), automatic, NextStep::kRound, 0, kQuiet},
      {"twice", Futile(Round(900, 75)), Round(60, 70), automatic, NextStep::kPostcopy, 0, kQuiet},
      {"when much was sent in vain", Round(1000, 300), Round(300, 290), automatic, NextStep::kPostcopy, 0, kQuiet},
      {"stops converging, in pre-copy", Round(1000, 300), Round(300, 290), precopy, NextStep::kRound, 0, kQuiet},
      {"stops converging where it wrote before", Round(1000, 300), Round(200, 290, 280), automatic, NextStep::kPostcopy,
       0, kQuiet},
      {"writes there all the time, but the next round is short", Round(1000, 300), Round(500, 100, 90), automatic,
       NextStep::kRound, 0, kAll},
      {"leaves what is written all the time", Round(300, 900), Round(600, 300, 60), automatic, NextStep::kRound, 0,
       kQuiet},
      {"pre-copy throttles", Round(1000, 300), Round(200, 290, 280), precopy, NextStep::kThrottle, 20, kAll},
      {"and more", Round(300, 290, 0, 20), Round(290, 280, 270, 20), precopy, NextStep::kThrottle, 30, kAll},
      {"to an end", Round(300, 290, 0, 95), Round(280, 280, 270, 95), precopy, NextStep::kThrottle, 99, kAll},
      {"throttles while the load does not fit", Round(1000, 9, 0, 95), Round(9, 9, 9, 95), slow_precopy,
       NextStep::kThrottle, 99, kAll},
      {"goes over when nothing more can be done", Round(1000, 9, 0, 99), Round(9, 9, 9, 99), slow_precopy,
       NextStep::kSwitchover, 99, kQuiet},
      {"but not with more than the limit", Round(1000, 101, 0, 99), Round(101, 101, 101, 99), slow_precopy,
       NextStep::kThrottle, 99, kAll},
      {"keeps a throttle that helps", Round(300, 290, 0, 30), Round(290, 100, 50, 30), precopy, NextStep::kRound, 30,
       kAll},
      {"pre-copy leaves what fits the limit", Round(1000, 300), Round(5, 20, 6), precopy, NextStep::kRound, 0, kQuiet},
      {"but no more", Round(1000, 300), Round(20, 40, 15), precopy, NextStep::kRound, 0, kAll},
      {"auto without post-copy throttles", Round(1000, 900), Round(900, 900, 900), no_postcopy, NextStep::kThrottle, 20,
       kAll},
      {"first part of a busy guest", {}, Part(62, 400), automatic, NextStep::kRound, 0, kUnsent},
      {"second, the guest wrote the same", Futile(Part(62, 400)), Part(62, 400, 400), automatic, NextStep::kRound, 0,
       kUnsent},
      {"second, the guest writes as fast as memory goes", Futile(Part(31, 30)), Part(31, 30), automatic,
       NextStep::kPostcopy, 0, kUnsent},
      {"but elsewhere", Futile(Calm(Part(31, 30))), Calm(Part(31, 30)), automatic, NextStep::kRound, 0, kCalm},
      {"nothing calm is left", Futile(Calm(Part(31, 30))), Part(31, 30), automatic, NextStep::kPostcopy, 0, kUnsent},
      {"nothing calm is left, and the guest writes less", Futile(Calm(Part(31, 30))), Part(31, 10), automatic,
       NextStep::kRound, 0, kUnsent},
      {"as much went in vain as may", Futile(Part(31, 30)), in_vain, automatic, NextStep::kPostcopy, 0, kUnsent},
      {"but no more will", Futile(Part(31, 30)), was_in_vain, automatic, NextStep::kRound, 0, kUnsent},
      {"pre-copy sends all once", Futile(Part(31, 30)), in_vain, precopy, NextStep::kRound, 0, kUnsent},
      {"part goes although the rest fits",
       {},
       [] {
         RoundFigures part = Part(62, 0);
         part.took = absl::Milliseconds(1);
         part.all_sent_bytes = 500 * kMiB;
         return part;
       }(),
       automatic,
       NextStep::kRound,
       0,
       kUnsent},
  };
  for (const Case& c : cases) {
    const Decision decision = DecideNext(c.now, c.before.has_value() ? &*c.before : nullptr, c.limits);
    EXPECT_EQ(decision.step, c.step) << c.name;
    EXPECT_EQ(decision.throttle_percent, c.throttle) << c.name;
    EXPECT_EQ(decision.pages, c.pages) << c.name;
  }
}

// One decision over all parts: the downtime is of what is left of all of them, what a round is for is memory's affair.
TEST(ConvergenceTest, WhatIsLeftOfMirroredPartsCountsInTheDowntimeAlone) {
  const ConvergenceLimits limits{.downtime_limit = absl::Milliseconds(100), .memory_bytes = 1000 * kMiB};
  const auto with = [](RoundFigures round, uint64_t mirrored_mib, uint64_t sent_mib = 0) {
    round.mirrored_bytes = mirrored_mib * kMiB;
    round.mirrored_sent_bytes = sent_mib * kMiB;
    round.mirrored_wire_bytes = sent_mib * kMiB;
    round.took += absl::Milliseconds(10) * sent_mib;
    return round;
  };
  const auto zeroes = [](RoundFigures round) {
    round.mirrored_wire_bytes = kMiB;
    round.took = absl::Seconds(1);
    return round;
  };
  struct {
    const char* name;
    RoundFigures now;
    NextStep step;
    bool for_mirrored = false;
  } const cases[] = {
      {"both fit", with(Round(1000, 4), 5), NextStep::kSwitchover},
      {"each fits", with(Round(1000, 6), 6), NextStep::kRound, true},
      {"memory fits", with(Round(1000, 1), 50), NextStep::kRound, true},
      {"nothing is left of memory", with(Round(1000, 0), 50), NextStep::kRound, true},
      {"and the others fit", with(Round(1000, 0), 9), NextStep::kSwitchover},
      {"zeroes of theirs are no measure of the wire", zeroes(with(Round(10, 5), 4, 990)), NextStep::kRound},
      {"memory does not fit", with(Round(1000, 50), 1), NextStep::kRound},
      {"the rate is that of all bytes", with(Round(10, 5), 4, 990), NextStep::kSwitchover},
      {"memory converges no more, whatever the others do", with(Round(200, 290, 280), 1), NextStep::kPostcopy},
  };
  for (const auto& c : cases) {
    const Decision decision = DecideNext(c.now, nullptr, limits);
    EXPECT_EQ(decision.step, c.step) << c.name;
    EXPECT_EQ(decision.for_mirrored, c.for_mirrored) << c.name;
    EXPECT_EQ(decision.throttle_percent, 0) << c.name;
  }
  EXPECT_NEAR(absl::ToDoubleMilliseconds(DecideNext(with(Round(1000, 30), 20), nullptr, limits).expected_downtime), 500,
              1);
  // A guest that writes nothing is not held back for the others.
  ConvergenceLimits precopy = limits;
  precopy.mode = MoveMode::kPrecopy;
  const RoundFigures before = Futile(with(Round(9, 9, 9), 50));
  EXPECT_EQ(DecideNext(with(Round(9, 9, 9), 50), &before, precopy).step, NextStep::kRound);
  // What is written all the time is left for the switchover where it fits beside them.
  const RoundFigures some = Round(1000, 300);
  EXPECT_EQ(DecideNext(Round(5, 20, 6), &some, precopy).pages, kQuiet);
  EXPECT_EQ(DecideNext(with(Round(5, 20, 6), 5), &some, precopy).pages, kAll);
}

TEST(ConvergenceTest, ExpectedDowntimeIsRestOverRateAndFixedCost) {
  ConvergenceLimits limits;
  limits.fixed_downtime = absl::Milliseconds(5);
  const Decision decision = DecideNext(Round(1000, 50), nullptr, limits);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(decision.expected_downtime), 505, 1);
}

TEST(ConvergenceTest, PartsGrowWhileTheGuestWritesWhereItHadWritten) {
  ConvergenceLimits limits{.memory_bytes = 3200 * kMiB};
  EXPECT_EQ(FirstRound(limits).most_bytes, 100 * kMiB);
  EXPECT_EQ(FirstRound(limits).pages, kCalm);
  EXPECT_EQ(DecideNext(Part(100, 300), nullptr, limits).most_bytes, 100 * kMiB);
  EXPECT_EQ(DecideNext(Part(100, 12), nullptr, limits).most_bytes, 200 * kMiB);
  const RoundFigures first = Futile(Part(100, 300));
  EXPECT_EQ(DecideNext(Part(100, 300, 300), &first, limits).most_bytes, 200 * kMiB);
  EXPECT_EQ(DecideNext(Round(800, 300, 50), &first, limits).most_bytes, 100 * kMiB) << "what goes again";
  limits.mode = MoveMode::kPrecopy;
  EXPECT_GE(DecideNext(Round(800, 300, 50), &first, limits).most_bytes, 3200 * kMiB);
}

}  // namespace
}  // namespace ferrite::migration
