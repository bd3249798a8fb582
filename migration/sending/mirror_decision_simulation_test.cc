// A disk, a link and a guest that writes chunks at random, second by second, with the real decisions between them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "absl/time/time.h"
#include "migration/sending/mirror_decision.h"

namespace ferrite::migration {
namespace {

struct Work {
  const char* name;
  double disk_mib;
  double hot_mib;     // what the guest writes
  double writes_mib;  // a second, as chunks
  double link_mib;    // a second
  // What comes of it: writes are blocked, and after which second at most.
  bool blocks = false;
  int ends_by = 0;
  uint64_t max_mib = 0;
};

struct Outcome {
  bool blocks = false;
  int second = 0;  // when it was ready
};

Outcome Play(const Work& work) {
  constexpr double kMiB = 1 << 20;
  constexpr absl::Duration kLimit = absl::Milliseconds(50);
  constexpr double kStep = 0.01;
  double never = work.disk_mib;  // copied
  double dirty = 0;              // of what was
  double copied = 0;
  double became = 0;
  bool was_futile = false;
  Outcome outcome;
  for (int step = 1; step <= 100'000; ++step) {
    const double rate = work.max_mib == 0 ? work.link_mib : std::min<double>(work.link_mib, work.max_mib);
    const double moved = std::min(rate * kStep, never + dirty);
    copied += moved;
    const double from_never = std::min(never, moved);
    never -= from_never;
    dirty -= moved - from_never;
    if (!outcome.blocks) {
      // Chunks of the hot part that are clean, hit at random.
      const double clean = std::max(work.hot_mib * (1 - never / work.disk_mib) - dirty, 0.0);
      const double fresh = clean * (1 - std::exp(-work.writes_mib * kStep / std::max(work.hot_mib, 1e-9)));
      dirty += fresh;
      became += fresh;
    }
    MirrorMeasures measures{.remaining_bytes = static_cast<uint64_t>((never + dirty) * kMiB),
                            .copied_bytes = static_cast<uint64_t>(copied * kMiB),
                            .possible_rate = work.link_mib * kMiB,
                            .max_bandwidth = static_cast<uint64_t>(static_cast<double>(work.max_mib) * kMiB),
                            .first_pass = never > 0};
    outcome.second = step / 100;
    if (FitsDowntime(measures, kLimit)) {
      return outcome;
    }
    if (step % 100 == 0) {
      measures.dirty_rate = became * kMiB;
      became = 0;
      const bool futile = IsFutile(measures, kLimit);
      outcome.blocks = outcome.blocks || (futile && was_futile);
      was_futile = futile;
    }
  }
  return outcome;
}

TEST(MirrorDecisionSimulationTest, BlocksWritesOnlyWhereTheBackgroundDoesNotConverge) {
  const Work works[] = {
      {.name = "idle", .disk_mib = 4096, .hot_mib = 1, .writes_mib = 0, .link_mib = 1000, .ends_by = 5},
      {.name = "light", .disk_mib = 4096, .hot_mib = 1000, .writes_mib = 100, .link_mib = 1000, .ends_by = 6},
      {.name = "half the link", .disk_mib = 4096, .hot_mib = 4000, .writes_mib = 500, .link_mib = 1000, .ends_by = 15},
      {.name = "faster than the link, over little",
       .disk_mib = 4096,
       .hot_mib = 20,
       .writes_mib = 5000,
       .link_mib = 1000,
       .ends_by = 6},
      {.name = "faster than the link, over much",
       .disk_mib = 4096,
       .hot_mib = 2000,
       .writes_mib = 5000,
       .link_mib = 1000,
       .blocks = true,
       .ends_by = 12},
      {.name = "slow link",
       .disk_mib = 1024,
       .hot_mib = 500,
       .writes_mib = 100,
       .link_mib = 50,
       .blocks = true,
       .ends_by = 60},
      {.name = "a limit below what is written",
       .disk_mib = 1024,
       .hot_mib = 500,
       .writes_mib = 100,
       .link_mib = 1000,
       .blocks = true,
       .ends_by = 60,
       .max_mib = 60},
  };
  for (const Work& work : works) {
    const Outcome outcome = Play(work);
    EXPECT_EQ(outcome.blocks, work.blocks) << work.name;
    EXPECT_LE(outcome.second, work.ends_by) << work.name;
  }
}

}  // namespace
}  // namespace ferrite::migration
