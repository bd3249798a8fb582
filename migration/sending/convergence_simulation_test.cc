// How moves of guests that write end, as a small simulator plays them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "absl/time/time.h"
#include "memory/guest_address.h"
#include "migration/api/move_options.h"
#include "tests/fakes/round_simulator.h"

namespace ferrite::migration {
namespace {

using End = SimulatedMove::End;
using Guest = SimulatedGuest;
using Moment = SimulatedGuest::Moment;

// Of guests of 1 GiB.
constexpr uint64_t kMiB = SimulatedGuest::kMiBPages;
constexpr uint64_t kAll = 1024 * kMiB;

struct Workload {
  const char* name;
  SimulatedGuest::Write write;
  End end = End::kPrecopy;  // in auto
  double most_sent = 1.15;  // in auto
  uint32_t most_rounds = 15;
  int limit_ms = 50;
  double link = 1.6e9;
  uint64_t zero_pages = 0;
  double first_write = 0;  // s
  // In pre-copy.
  End precopy_end = End::kPrecopy;
  double precopy_sent = 3;
};

// Writers of `count` pages from `first` on, `rate` a second.
Guest::Write AtRandom(uint64_t first, uint64_t count, double rate) {
  return [=](Guest& guest, const Moment& m) { guest.Random(first, count, rate, m.seconds); };
}
Guest::Write InOrder(uint64_t first, uint64_t count, double rate) {
  return [=](Guest& guest, const Moment& m) { guest.InOrder(first, count, rate, m.seconds); };
}

const Workload kWorkloads[] = {
    // As they were measured: page writes a second of guests of 1 GiB.
    {.name = "random writer over 256 MiB", .write = AtRandom(0, 256 * kMiB, 1e7), .end = End::kPostcopy},
    {.name = "random writer, limit 1 ms",
     .write = AtRandom(0, 256 * kMiB, 1.3e7),
     .end = End::kPostcopy,
     .limit_ms = 1},
    // Where KVM takes 10 us for each first write that it sees, and memory that was never touched takes its time there.
    {.name = "random writer that is slowed down by being watched, limit 1 ms",
     .write = AtRandom(0, 256 * kMiB, 1.3e7),
     .end = End::kPostcopy,
     .most_rounds = 35,
     .limit_ms = 1,
     .link = 0.75e9,
     .first_write = 10e-6},
    {.name = "random writer that is slowed down by being watched, fast link",
     .write = AtRandom(0, 256 * kMiB, 1.3e7),
     .end = End::kPrecopy,
     .most_sent = 1.6,
     .most_rounds = 60,
     .limit_ms = 1,
     .link = 2e9,
     .first_write = 10e-6},
    {.name = "random writer that is slowed down by being watched, and fits the limit",
     .write = AtRandom(0, 256 * kMiB, 1.3e7),
     .most_rounds = 30,
     .limit_ms = 450,
     .link = 0.75e9,
     .first_write = 10e-6},
    {.name = "light writer over 16 MiB that is slowed down by being watched",
     .write = AtRandom(0, 16 * kMiB, 1.8e5),
     .limit_ms = 10,
     .first_write = 10e-6},
    {.name = "random writer at the end of memory",
     .write = AtRandom(768 * kMiB, 256 * kMiB, 1e7),
     .end = End::kPostcopy,
     .most_sent = 1.05},
    {.name = "random writer that fits the limit",
     .write = AtRandom(0, 256 * kMiB, 1e7),
     .most_sent = 1.4,
     .limit_ms = 300},
    {.name = "sequential writer over 256 MiB", .write = InOrder(0, 256 * kMiB, 2.6e7), .end = End::kPostcopy},
    {.name = "light writer over 16 MiB, limit 10 ms", .write = AtRandom(0, 16 * kMiB, 1.8e5), .limit_ms = 10},
    {.name = "light writer over 16 MiB, limit 1 ms", .write = AtRandom(0, 16 * kMiB, 1.8e5), .limit_ms = 1},
    // Made up.
    {.name = "idle", .write = AtRandom(77, 1, 5000), .most_sent = 1.01},
    {.name = "idle, limit 1 ms, slow link",
     .write = AtRandom(77, 1, 5000),
     .most_sent = 1.01,
     .limit_ms = 1,
     .link = 1e8},
    {.name = "idle, all zero", .write = AtRandom(77, 1, 5000), .most_sent = 0.01, .zero_pages = kAll},
    {.name = "writes all of its memory", .write = AtRandom(0, kAll, 1e7), .end = End::kPostcopy, .most_rounds = 5},
    {.name = "writes all of its memory, slow link",
     .write = AtRandom(0, kAll, 1e7),
     .end = End::kPostcopy,
     .most_rounds = 5,
     .link = 1e8,
     // At a hundredth of its speed it is still faster than the link.
     .precopy_end = End::kNone,
     .precopy_sent = 100},
    {.name = "writes all of its memory in order", .write = InOrder(0, kAll, 1e6), .end = End::kPostcopy},
    {.name = "follows the sender",
     .write =
         [](Guest& guest, const Moment& m) {
           guest.Touch(m.sent.first, static_cast<uint64_t>(static_cast<double>(m.sent.count) * m.share));
         },
     .end = End::kPostcopy,
     .most_rounds = 4,
     .precopy_sent = 4.2},
    {.name = "dirties at a fifth of the link's rate",
     .write = AtRandom(0, kAll, 0.2 * 1.6e9 / kPageBytes),
     .most_sent = 1.4,
     .most_rounds = 40},
    {.name = "dirties nearly at the link's rate",
     .write = AtRandom(0, kAll, 0.9 * 1.6e9 / kPageBytes),
     .end = End::kPostcopy,
     .most_rounds = 20},
    {.name = "dirties twice as fast as the link",
     .write = AtRandom(0, kAll, 2 * 1.6e9 / kPageBytes),
     .end = End::kPostcopy},
    {.name = "one hot MiB", .write = AtRandom(100 * kMiB, kMiB, 1e7), .most_sent = 1.01},
    {.name = "one hot MiB, limit 2 ms", .write = AtRandom(100 * kMiB, kMiB, 1e7), .most_sent = 1.01, .limit_ms = 2},
    {.name = "one hot MiB on a slow link", .write = AtRandom(100 * kMiB, kMiB, 1e7), .most_sent = 1.01, .link = 1e8},
    {.name = "hot MiB and a half of memory that is seldom written",
     .write =
         [](Guest& guest, const Moment& m) {
           guest.Random(0, kMiB, 1e6, m.seconds);
           guest.Random(512 * kMiB, 512 * kMiB, 2e4, m.seconds);
         },
     .most_sent = 1.3},
    {.name = "zeroes 256 MiB all the time",
     .write = InOrder(0, 256 * kMiB, 1e6),
     .end = End::kPostcopy,
     .most_sent = 1.01,
     .zero_pages = 256 * kMiB},
    {.name = "bursts of 64 MiB, each 2 s",
     .write =
         [](Guest& guest, const Moment& m) {
           if (std::fmod(m.now, 2) < 0.02) {
             guest.Random(300 * kMiB, 64 * kMiB, 1e7, m.seconds);
           }
         },
     .most_sent = 1.15},
    {.name = "bursts of 64 MiB, each 2 s, slow link",
     .write =
         [](Guest& guest, const Moment& m) {
           if (std::fmod(m.now, 2) < 0.02) {
             guest.Random(300 * kMiB, 64 * kMiB, 1e7, m.seconds);
           }
         },
     .most_sent = 1.3,
     .most_rounds = 20,
     .link = 2e8},
    {.name = "busy, then quiet",
     .write =
         [](Guest& guest, const Moment& m) {
           if (m.now < 0.25) {
             guest.Random(0, 256 * kMiB, 1e7, m.seconds);
           }
         },
     .most_sent = 1.1},
    // What had gone by then goes again, whatever is decided.
    {.name = "quiet, then busy",
     .write =
         [](Guest& guest, const Moment& m) {
           if (m.now > 0.4) {
             guest.Random(0, 256 * kMiB, 1e7, m.seconds);
           }
         },
     .end = End::kPostcopy,
     .most_sent = 1.4},
};

SimulatedMove Play(const Workload& work, MoveMode mode) {
  SimulatedGuest guest(kAll, work.zero_pages, work.first_write, work.write);
  return PlayMove(
      guest, {.bytes_per_second = work.link},
      {.mode = mode, .downtime_limit = absl::Milliseconds(work.limit_ms), .fixed_downtime = absl::Microseconds(100)});
}

TEST(ConvergenceSimulationTest, AutoEndsInPrecopyWithinTheLimitOrTurnsBeforeMuchWentInVain) {
  for (const Workload& work : kWorkloads) {
    const SimulatedMove outcome = Play(work, MoveMode::kAuto);
    SCOPED_TRACE(testing::Message() << work.name << ": " << outcome);
    EXPECT_EQ(outcome.end, work.end);
    EXPECT_LE(outcome.rounds, work.most_rounds);
    EXPECT_LE(outcome.sent, work.most_sent);
    EXPECT_LE(outcome.downtime_ms, work.limit_ms);
    EXPECT_LE(outcome.longest_again, 1.0 / 32) << "of memory, in one round";
    EXPECT_EQ(outcome.throttle, 0);
  }
}

TEST(ConvergenceSimulationTest, PrecopyEndsWithinTheLimitWhereAThrottleCanHelp) {
  for (const Workload& work : kWorkloads) {
    const SimulatedMove outcome = Play(work, MoveMode::kPrecopy);
    SCOPED_TRACE(testing::Message() << work.name << ": " << outcome);
    EXPECT_EQ(outcome.end, work.precopy_end);
    EXPECT_LE(outcome.sent, work.precopy_sent);
    EXPECT_LE(outcome.downtime_ms, work.limit_ms);
    if (work.end == End::kPrecopy) {
      EXPECT_EQ(outcome.throttle, 0) << "what ends by itself is not held back";
      EXPECT_LE(outcome.sent, work.most_sent);
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
