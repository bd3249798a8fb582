// What is left and fails again and again, by errors that are ignored: nobody stands still for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/block_io.h"
#include "migration/api/mirror_options.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

constexpr uint64_t kBytes = 4 * kMiB;
constexpr char kWords[] = "bad sector";

class MirrorFailingTest : public testing::TestWithParam<bool> {
 protected:
  static MirrorOptions Ignoring(CopyMode mode = CopyMode::kBackground) {
    return {.copy_mode = mode, .on_source_error = ErrorPolicy::kIgnore, .on_target_error = ErrorPolicy::kIgnore};
  }
  // A chunk of one side, the last one.
  void Break(MirrorRig& rig, uint64_t offset = kBytes - kChunk) const {
    (GetParam() ? rig.source : rig.target).fails = [offset](const BlockOperation& operation) {
      return operation.kind != Kind::kFlush && operation.offset < offset + kChunk &&
                     operation.offset + operation.bytes > offset
                 ? absl::DataLossError(kWords)
                 : absl::OkStatus();
    };
  }
  static void Mend(MirrorRig& rig) { rig.source.fails = rig.target.fails = nullptr; }
  static void ExpectDoesNotFit(const MirrorRig& rig) {
    EXPECT_FALSE(rig.figures().fits_downtime);
    EXPECT_EQ(rig.figures().drain_time, absl::InfiniteDuration());
    EXPECT_EQ(rig.figures().cause, kWords);
  }
};

INSTANTIATE_TEST_SUITE_P(Side, MirrorFailingTest, testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Source" : "Target"); });

TEST_P(MirrorFailingTest, ErrorEndsTheDrainAtOnce) {
  for (const CopyMode mode : {CopyMode::kBackground, CopyMode::kWriteBlocking}) {
    SCOPED_TRACE(CopyModeName(mode));
    MirrorRig rig(Ignoring(mode));
    rig.Fill(0, kBytes);
    rig.Start();
    ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
    rig.Settle();
    Break(rig);
    (void)rig.Write(kBytes - kChunk, 4 * kKiB);
    EXPECT_TRUE(rig.figures().fits_downtime);
    const MonotonicTime began = rig.now;
    ASSERT_TRUE(rig.mirror->Drain().ok());
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().state != MirrorState::kCompleting; }));
    EXPECT_LE(rig.now - began, absl::Milliseconds(3)) << "a read and a write";
    EXPECT_EQ(rig.figures().state, MirrorState::kReady);
    EXPECT_TRUE(absl::IsFailedPrecondition(rig.mirror->WithdrawDrain())) << "it was";
    EXPECT_TRUE(rig.held.empty());
    ExpectDoesNotFit(rig);
    EXPECT_EQ(rig.mirror->Drain().message(),
              "complete: some of what is left could not be copied, and is tried again: bad sector");
    EXPECT_EQ(rig.figures().state, MirrorState::kReady);
    // It is, and all else is copied meanwhile.
    (void)rig.Write(0, kMiB);
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().errors >= 6 && rig.figures().dirty_bytes == kChunk; }));
    ExpectDoesNotFit(rig);
    Mend(rig);
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().fits_downtime; }));
    EXPECT_EQ(rig.figures().cause, "");
    EXPECT_EQ(rig.figures().dirty_bytes, 0u);
    rig.Complete();
  }
}

// Whoever completes as soon as it may, with a guest that writes to what fails now and then.
TEST_P(MirrorFailingTest, StandstillsAreFewAndShort) {
  MirrorRig rig(Ignoring());
  rig.Fill(0, kBytes);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  Break(rig);
  absl::Duration stood_still;
  int drains = 0;
  for (const MonotonicTime end = rig.now + absl::Minutes(1); rig.now < end;) {
    (void)rig.Write(kBytes - 8 * kKiB, 4 * kKiB);
    if (rig.figures().fits_downtime) {
      ASSERT_TRUE(rig.mirror->Drain().ok());
      ++drains;
      const MonotonicTime began = rig.now;
      ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().state != MirrorState::kCompleting; }));
      stood_still += rig.now - began;
    }
    const MonotonicTime next = rig.now + absl::Milliseconds(250);
    (void)rig.RunUntil([&] { return rig.now >= next; });
    rig.now = std::max(rig.now, next);
  }
  EXPECT_EQ(drains, 1);
  EXPECT_LE(stood_still, absl::Milliseconds(3));
  Mend(rig);
  ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().fits_downtime; }));
  rig.Complete();
}

TEST_P(MirrorFailingTest, IsNotReadyBeforeAllWasCopiedOnce) {
  MirrorRig rig(Ignoring());
  rig.Fill(0, kBytes);
  // The first one: what is left is not little yet.
  Break(rig, 0);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().errors >= 8; }));
  EXPECT_EQ(rig.figures().dirty_bytes + rig.figures().in_flight_bytes, kChunk);
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning);
  ExpectDoesNotFit(rig);
  // What it waits for is no writer.
  const MonotonicTime end = rig.now + absl::Seconds(30);
  while (rig.now < end) {
    for (uint64_t at = kChunk; at < 3 * kMiB; at += kChunk) {
      (void)rig.Write(at, 4 * kKiB);
    }
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().in_flight_bytes == 0; }));
    rig.now += absl::Milliseconds(100);
    rig.Turn();
  }
  EXPECT_EQ(rig.figures().copy_mode, CopyMode::kBackground);
  Mend(rig);
  rig.Complete();
}

TEST_P(MirrorFailingTest, OneThatWasStoppedIsReadyWhenThatIsCopied) {
  MirrorOptions options;
  options.on_source_error = options.on_target_error = ErrorPolicy::kStop;
  MirrorRig rig(options);
  rig.Fill(0, kBytes);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  Break(rig);
  (void)rig.Write(kBytes - 4 * kKiB, 4 * kKiB);
  ASSERT_TRUE(rig.RunUntil(MirrorState::kPaused));
  rig.Settle();
  ASSERT_TRUE(rig.mirror->Resume().ok());
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning);
  EXPECT_FALSE(rig.figures().fits_downtime);
  Mend(rig);
  rig.Complete();
}

}  // namespace
}  // namespace ferrite::migration
