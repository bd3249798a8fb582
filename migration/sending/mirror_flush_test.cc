// The flush of the target: what its failure leads to, and what a flush of a drain that was withdrawn is worth.
#include <gtest/gtest.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

// Has a flush of the target in flight, and nothing else.
void StartFlush(MirrorRig& rig) {
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  ASSERT_TRUE(rig.mirror->Drain().ok());
  rig.Turn();
  ASSERT_EQ(rig.target.in_flight(), 1u);
  ASSERT_EQ(rig.target.Operation(0).kind, Kind::kFlush);
}

// Ends all but the flush, which the target has first.
void EndAllButFlush(MirrorRig& rig) {
  for (int i = 0; i < 100 && rig.source.ready() + rig.target.ready() > 1; ++i) {
    rig.source.EndAll();
    while (rig.target.ready() > 1) {
      rig.target.End(1);
    }
    rig.Turn();
  }
}

TEST(MirrorFlushTest, OneThatFailsFailsTheMirrorWhateverThePolicy) {
  for (const ErrorPolicy policy :
       {ErrorPolicy::kReport, ErrorPolicy::kIgnore, ErrorPolicy::kStop, ErrorPolicy::kEnospc}) {
    for (const absl::Status& error : {absl::DataLossError("flush"), absl::ResourceExhaustedError("flush: no room")}) {
      SCOPED_TRACE(ErrorPolicyName(policy));
      MirrorRig rig({.on_target_error = policy});
      StartFlush(rig);
      rig.target.fails = [&](const BlockOperation&) { return error; };
      rig.EndAll();
      // The next flush would succeed, and what the first one told of would be lost.
      rig.target.fails = nullptr;
      rig.Turn();
      EXPECT_EQ(rig.figures().state, MirrorState::kFailed);
      EXPECT_EQ(rig.figures().errors, 1u);
      EXPECT_EQ(rig.figures().cause, error.message());
      EXPECT_EQ(rig.mirror->error(), error);
      rig.Settle();
      EXPECT_EQ(rig.target.submitted[Kind::kFlush], 1u) << "it is not tried again";
    }
  }
}

TEST(MirrorFlushTest, OneThatFailsAfterItsDrainWasWithdrawnDoes) {
  MirrorRig rig({.on_target_error = ErrorPolicy::kIgnore});
  StartFlush(rig);
  ASSERT_TRUE(rig.mirror->WithdrawDrain().ok());
  rig.target.fails = [](const BlockOperation&) { return absl::DataLossError("flush"); };
  rig.EndAll();
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kFailed);
}

TEST(MirrorFlushTest, OneThatFailsWhenItIsOverChangesNothing) {
  MirrorRig rig(MirrorOptions{});
  StartFlush(rig);
  ASSERT_TRUE(rig.mirror->Cancel().ok());
  rig.target.fails = [](const BlockOperation&) { return absl::DataLossError("flush"); };
  rig.EndAll();
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kCancelled);
}

TEST(MirrorFlushTest, AfterADrainThatIsWithdrawnItBlocksNothing) {
  MirrorRig rig({.copy_mode = CopyMode::kWriteBlocking});
  StartFlush(rig);
  ASSERT_TRUE(rig.mirror->WithdrawDrain().ok());
  EXPECT_NE(rig.Write(kMiB, 4 * kKiB), 0u);
  EXPECT_NE(rig.Write(2 * kMiB, kMiB), 0u);
  rig.Turn();
  EndAllButFlush(rig);
  EXPECT_EQ(rig.target.in_flight(), 1u);
  EXPECT_TRUE(rig.held.empty());
  EXPECT_EQ(rig.figures().done_bytes, 4 * kMiB);
  rig.EndAll();
  rig.Complete();
}

TEST(MirrorFlushTest, OfADrainThatWasWithdrawnItCompletesNoOther) {
  // What was written between is copied before the next drain, or in it.
  for (const bool before : {true, false}) {
    MirrorRig rig(MirrorOptions{});
    StartFlush(rig);
    ASSERT_TRUE(rig.mirror->WithdrawDrain().ok());
    rig.now += absl::Seconds(1);
    (void)rig.Write(kMiB, 4 * kKiB);
    if (before) {
      rig.Turn();
      EndAllButFlush(rig);
    }
    ASSERT_TRUE(rig.mirror->Drain().ok());
    rig.Turn();
    EndAllButFlush(rig);
    EXPECT_EQ(rig.figures().done_bytes, 4 * kMiB) << "nothing waits for the old flush";
    rig.target.End(0);
    rig.Turn();
    EXPECT_EQ(rig.figures().state, MirrorState::kCompleting) << "the copy is not flushed";
    EXPECT_EQ(rig.target.submitted[Kind::kFlush], 2u);
    ASSERT_TRUE(rig.RunUntil(MirrorState::kCompleted));
    rig.ExpectEqual();
  }
}

TEST(MirrorFlushTest, WhatElseFailsMeanwhileDoesNotEndIt) {
  MirrorRig rig({.on_target_error = ErrorPolicy::kIgnore});
  StartFlush(rig);
  ASSERT_TRUE(rig.mirror->WithdrawDrain().ok());
  rig.now += absl::Seconds(1);
  (void)rig.Write(kMiB, 4 * kKiB);
  rig.Turn();
  rig.source.EndAll();
  rig.Turn();
  ASSERT_EQ(rig.target.in_flight(), 2u);
  rig.target.fails = [](const BlockOperation&) { return absl::DataLossError("bad"); };
  rig.target.End(1);
  rig.Turn();
  rig.target.fails = nullptr;
  rig.now = rig.next;
  rig.Turn();
  EndAllButFlush(rig);
  ASSERT_TRUE(rig.mirror->Drain().ok());
  rig.Turn();
  EXPECT_EQ(rig.figures().done_bytes, 4 * kMiB);
  EXPECT_EQ(rig.target.submitted[Kind::kFlush], 1u) << "two flushes at once";
  ASSERT_TRUE(rig.RunUntil(MirrorState::kCompleted));
  EXPECT_EQ(rig.target.submitted[Kind::kFlush], 2u);
  rig.ExpectEqual();
}

}  // namespace
}  // namespace ferrite::migration
