// Write-blocking while a target says nothing: for how long the guest's writes are held.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/time/time.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kMost = absl::Seconds(2);

class MirrorLateTest : public testing::Test {
 protected:
  MirrorLateTest() {
    rig_.Fill(0, 4 * kMiB);
    rig_.Start();
    EXPECT_TRUE(rig_.RunUntil(MirrorState::kReady));
    rig_.Settle();
    rig_.now += absl::Seconds(10);
  }
  // The source answers, the target does not.
  void EndSource() {
    rig_.source.EndAll();
    rig_.Turn();
  }

  MirrorRig rig_{{.copy_mode = CopyMode::kWriteBlocking}, 4 * kMiB};
};

TEST_F(MirrorLateTest, WritesAreLetGoAfterTwoSeconds) {
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  const MonotonicTime began = rig_.now;
  EXPECT_EQ(rig_.next, began + kMost);
  EndSource();
  rig_.now = began + absl::Seconds(1);
  EXPECT_NE(rig_.Write(2 * kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  EXPECT_EQ(rig_.next, began + kMost) << "of the oldest";
  EndSource();
  rig_.now = began + kMost - absl::Milliseconds(1);
  rig_.Turn();
  EXPECT_EQ(rig_.held.size(), 2u);
  rig_.now = rig_.next;
  EXPECT_EQ(rig_.now, began + kMost);
  rig_.Turn();
  EXPECT_TRUE(rig_.held.empty());
  EXPECT_EQ(rig_.next, MonotonicTime::InfiniteFuture());
  EXPECT_EQ(rig_.figures().state, MirrorState::kReady);
  EXPECT_EQ(rig_.figures().copy_mode, CopyMode::kWriteBlocking);
  EXPECT_LT(rig_.figures().done_bytes, 4 * kMiB) << "the target has them not";
  // Nothing is held until the target does something; a read of the source is not that.
  EXPECT_EQ(rig_.Write(3 * kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  EndSource();
  EXPECT_EQ(rig_.Write(3 * kMiB + kChunk, 4 * kKiB), 0u);
  rig_.target.End(0);
  rig_.Turn();
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB, 3), 0u);
  rig_.Complete();
}

TEST_F(MirrorLateTest, OneThatWasNotBegunIsDirtyThen) {
  rig_.source.at_kick = nullptr;
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB, 2), 0u) << "waits for the first one";
  rig_.Turn();
  rig_.now += kMost;
  rig_.Turn();
  EXPECT_TRUE(rig_.held.empty());
  EXPECT_EQ(rig_.figures().dirty_bytes, kChunk);
  rig_.Complete();
}

TEST_F(MirrorLateTest, TheTimeIsOfTheOldestThatIsLeft) {
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  rig_.now += absl::Milliseconds(1900);
  EXPECT_NE(rig_.Write(2 * kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  const MonotonicTime second = rig_.now;
  EndSource();
  rig_.target.End(0);
  rig_.Turn();
  EXPECT_EQ(rig_.held.size(), 1u);
  EXPECT_EQ(rig_.next, second + kMost);
  rig_.now = second + kMost - absl::Milliseconds(1);
  rig_.Turn();
  EXPECT_EQ(rig_.held.size(), 1u);
  rig_.Complete();
}

TEST_F(MirrorLateTest, ATurnThatComesLateHoldsOn) {
  EXPECT_NE(rig_.Write(kMiB, 4 * kKiB), 0u);
  rig_.Turn();
  EndSource();
  rig_.EndAll();
  rig_.now += 2 * kMost;
  rig_.Turn();
  EXPECT_TRUE(rig_.held.empty());
  EXPECT_NE(rig_.Write(2 * kMiB, 4 * kKiB), 0u) << "the target had answered";
  rig_.Complete();
}

}  // namespace
}  // namespace ferrite::migration
