// What is left after ready: whether it fits the downtime limit, which who completes waits for.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/mirror_options.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

// After ready what is left may be more than fits: a burst is copied, and for one that does not end writes are blocked.
TEST(MirrorFitsTest, FitsAgainSomeTimeAfterABurst) {
  MirrorRig rig({.downtime_limit = absl::Milliseconds(4)}, 48 * kMiB);
  rig.Fill(0, 48 * kMiB);
  rig.Start();
  EXPECT_FALSE(rig.figures().fits_downtime);
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  EXPECT_TRUE(rig.figures().fits_downtime);
  rig.Settle();
  (void)rig.Write(0, 48 * kMiB);
  // Before a turn sees it.
  EXPECT_FALSE(rig.figures().fits_downtime);
  ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().fits_downtime; }));
  EXPECT_EQ(rig.figures().state, MirrorState::kReady);
  EXPECT_EQ(rig.figures().copy_mode, CopyMode::kBackground);
  // 16 MiB in 2 ms, and 1 ms for the flush.
  const MonotonicTime began = rig.now;
  rig.Complete();
  EXPECT_LE(rig.now - began, absl::Milliseconds(4 + 2 + 1));
}

TEST(MirrorFitsTest, FitsAfterReadyByBlockingWritesWhereItMay) {
  for (const bool turns : {true, false}) {
    MirrorRig rig({.downtime_limit = absl::Milliseconds(1), .turn_write_blocking = turns}, 16 * kMiB);
    rig.Fill(0, 16 * kMiB);
    rig.Start();
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().state == MirrorState::kReady; }, 100, absl::Milliseconds(10)));
    // As much becomes dirty as is copied.
    uint64_t at = 0;
    const auto write = [&] {
      for (int i = 0; i < 40 && rig.held.empty(); ++i) {
        at = (at + 37 * kChunk) % (16 * kMiB);
        (void)rig.Write(at, 4 * kKiB);
      }
    };
    write();
    EXPECT_FALSE(rig.figures().fits_downtime);
    const MonotonicTime began = rig.now;
    EXPECT_EQ(rig.RunUntil(
                  [&] {
                    write();
                    return rig.figures().fits_downtime;
                  },
                  600, absl::Milliseconds(10)),
              turns);
    EXPECT_EQ(rig.figures().state, MirrorState::kReady);
    if (turns) {
      EXPECT_EQ(rig.figures().copy_mode, CopyMode::kWriteBlocking);
      EXPECT_GE(rig.now - began, absl::Seconds(1));
      EXPECT_LE(rig.now - began, absl::Seconds(4));
      rig.Complete();
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
