// What an error of either side leads to.
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"
#include "tests/fakes/scarcity.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

absl::Status Covers(const BlockOperation& operation, uint64_t offset, absl::Status status) {
  return operation.offset <= offset && offset < operation.offset + operation.bytes ? status : absl::OkStatus();
}

// Of `side`: the chunk at 1 MiB, from when the copy is begun.
void Break(FakeBlockIo& side, const absl::Status& status) {
  side.fails = [status](const BlockOperation& operation) { return Covers(operation, kMiB + 100 * kKiB, status); };
}

class MirrorErrorsTest : public testing::TestWithParam<bool> {
 protected:
  bool of_source() const { return GetParam(); }
  FakeBlockIo& broken(MirrorRig& rig) const { return of_source() ? rig.source : rig.target; }
  MirrorOptions Policy(ErrorPolicy policy) const {
    MirrorOptions options;
    (of_source() ? options.on_source_error : options.on_target_error) = policy;
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Side, MirrorErrorsTest, testing::Bool(),
                         [](const auto& info) { return std::string(info.param ? "Source" : "Target"); });

TEST_P(MirrorErrorsTest, ReportFailsTheMirror) {
  MirrorRig rig(Policy(ErrorPolicy::kReport));
  rig.Fill(0, 4 * kMiB);
  Break(broken(rig), absl::DataLossError("read of disk: Input/output error"));
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kFailed));
  EXPECT_EQ(rig.mirror->error(), absl::DataLossError("read of disk: Input/output error"));
  EXPECT_EQ(rig.figures().cause, "read of disk: Input/output error");
  EXPECT_EQ(rig.figures().errors, 1u);
  rig.EndAll();
  rig.Turn();
  EXPECT_TRUE(rig.mirror->idle());
  EXPECT_EQ(rig.next, MonotonicTime::InfiniteFuture());
  const uint64_t reads = rig.source.submitted[Kind::kRead];
  (void)rig.Write(0, 512);
  rig.Turn();
  EXPECT_EQ(rig.source.submitted[Kind::kRead], reads) << "nothing more is begun";
  const absl::Duration took = rig.figures().took;
  rig.now += absl::Seconds(5);
  EXPECT_EQ(rig.figures().took, took);
}

TEST_P(MirrorErrorsTest, IgnoreTriesAgainLaterEachTime) {
  MirrorRig rig(Policy(ErrorPolicy::kIgnore));
  rig.Fill(0, 4 * kMiB);
  Break(broken(rig), absl::DataLossError("bad"));
  rig.Start();
  // All but the chunk is copied, also what was in one operation with it.
  ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().dirty_bytes == kChunk && rig.figures().in_flight_bytes == 0; }));
  EXPECT_EQ(rig.figures().done_bytes, 4 * kMiB - kChunk);
  EXPECT_EQ(rig.figures().cause, "bad");
  absl::Duration last;
  for (int i = 0; i < 12; ++i) {
    const uint64_t errors = rig.figures().errors;
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().errors > errors; }));
    const absl::Duration wait = rig.next - rig.now;
    EXPECT_GE(wait, absl::Milliseconds(100));
    EXPECT_LE(wait, absl::Seconds(10));
    if (of_source()) {
      // A read of the source succeeds between two writes that fail.
      EXPECT_GE(wait, std::min(last * 2, absl::Seconds(10)));
    }
    last = wait;
  }
  if (of_source()) {
    EXPECT_EQ(last, absl::Seconds(10));
  }
  EXPECT_EQ(rig.figures().state, MirrorState::kRunning) << "nobody knows when that is copied";
  broken(rig).fails = nullptr;
  rig.Complete();
}

TEST_P(MirrorErrorsTest, WhatSucceedsEndsTheBackOff) {
  MirrorRig rig(Policy(ErrorPolicy::kIgnore));
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  for (int i = 0; i < 3; ++i) {
    Break(broken(rig), absl::DataLossError("bad"));
    (void)rig.Write(kMiB + 100 * kKiB, 512);
    const uint64_t errors = rig.figures().errors;
    ASSERT_TRUE(rig.RunUntil([&] { return rig.figures().errors > errors; }));
    EXPECT_EQ(rig.next - rig.now, absl::Milliseconds(100));
    broken(rig).fails = nullptr;
    rig.Settle();
    EXPECT_EQ(rig.figures().dirty_bytes, 0u);
  }
  rig.Complete();
}

TEST_P(MirrorErrorsTest, StopWaitsForResume) {
  MirrorRig rig(Policy(ErrorPolicy::kStop));
  rig.Fill(0, 4 * kMiB);
  Break(broken(rig), absl::DataLossError("bad sector"));
  rig.Start();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(rig.RunUntil(MirrorState::kPaused));
    EXPECT_EQ(rig.figures().cause, "bad sector");
    rig.Settle();
    EXPECT_TRUE(rig.mirror->idle());
    EXPECT_EQ(rig.figures().in_flight_bytes, 0u);
    ASSERT_TRUE(rig.mirror->Resume().ok());
    EXPECT_EQ(rig.figures().cause, "");
  }
  ASSERT_TRUE(rig.RunUntil(MirrorState::kPaused));
  broken(rig).fails = nullptr;
  ASSERT_TRUE(rig.mirror->Resume().ok());
  rig.Complete();
}

TEST_P(MirrorErrorsTest, EnospcStopsForAFullDiskAndReportsTheRest) {
  MirrorRig full(Policy(ErrorPolicy::kEnospc));
  full.Fill(0, 4 * kMiB);
  Break(broken(full), absl::ResourceExhaustedError("No space left on device"));
  full.Start();
  ASSERT_TRUE(full.RunUntil(MirrorState::kPaused));
  EXPECT_EQ(full.figures().cause, "No space left on device");
  broken(full).fails = nullptr;
  ASSERT_TRUE(full.mirror->Resume().ok());
  full.Complete();

  MirrorRig bad(Policy(ErrorPolicy::kEnospc));
  bad.Fill(0, 4 * kMiB);
  Break(broken(bad), absl::DataLossError("Input/output error"));
  bad.Start();
  EXPECT_TRUE(bad.RunUntil(MirrorState::kFailed));
}

TEST_P(MirrorErrorsTest, APolicyIsOfOneSide) {
  MirrorRig rig(Policy(ErrorPolicy::kIgnore));
  rig.Fill(0, 4 * kMiB);
  Break(of_source() ? rig.target : rig.source, absl::DataLossError("bad"));
  rig.Start();
  EXPECT_TRUE(rig.RunUntil(MirrorState::kFailed));
}

TEST_P(MirrorErrorsTest, WhileAnErrorIsIgnoredNoWriteIsHeld) {
  MirrorOptions options = Policy(ErrorPolicy::kIgnore);
  options.copy_mode = CopyMode::kWriteBlocking;
  MirrorRig rig(options);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  Break(broken(rig), absl::DataLossError("bad"));
  EXPECT_NE(rig.Write(kMiB + 100 * kKiB, 4 * kKiB), 0u);
  EXPECT_NE(rig.Write(2 * kMiB, 256 * kKiB), 0u);
  ASSERT_TRUE(rig.RunUntil([&] { return rig.held.empty() && rig.figures().errors > 0; }));
  EXPECT_EQ(rig.Write(3 * kMiB, 512), 0u);
  broken(rig).fails = nullptr;
  rig.now = rig.next;
  rig.Turn();
  EXPECT_NE(rig.Write(3 * kMiB, 512), 0u) << "it is over";
  rig.Complete();
}

TEST_P(MirrorErrorsTest, WhatFailsWhilePausedFailsTheMirror) {
  MirrorRig rig(Policy(ErrorPolicy::kReport));
  rig.Fill(kMiB, kMiB);
  rig.Start();
  if (!of_source()) {
    rig.source.EndAll();
    rig.Turn();
  }
  Break(broken(rig), absl::DataLossError("bad"));
  ASSERT_TRUE(rig.mirror->Pause().ok());
  rig.EndAll();
  rig.Turn();
  EXPECT_EQ(rig.figures().state, MirrorState::kFailed);
}

TEST(MirrorLostTargetTest, FailsTheMirrorWhateverThePolicy) {
  const absl::Status lost = absl::UnavailableError("the connection to the NBD server is lost");
  for (const ErrorPolicy policy :
       {ErrorPolicy::kReport, ErrorPolicy::kIgnore, ErrorPolicy::kStop, ErrorPolicy::kEnospc}) {
    SCOPED_TRACE(ErrorPolicyName(policy));
    MirrorRig rig({.on_target_error = policy});
    rig.Fill(0, 4 * kMiB);
    Break(rig.target, lost);
    rig.Start();
    ASSERT_TRUE(rig.RunUntil(MirrorState::kFailed));
    EXPECT_EQ(rig.mirror->error(), lost);
    EXPECT_EQ(rig.figures().cause, lost.message());
  }
  // A source is no connection.
  MirrorRig rig({.on_source_error = ErrorPolicy::kStop});
  rig.Fill(0, 4 * kMiB);
  Break(rig.source, lost);
  rig.Start();
  EXPECT_TRUE(rig.RunUntil(MirrorState::kPaused));
}

TEST_P(MirrorErrorsTest, AnErrorIsTakenInWithoutMemory) {
  for (const ErrorPolicy policy : {ErrorPolicy::kReport, ErrorPolicy::kIgnore, ErrorPolicy::kStop}) {
    SCOPED_TRACE(ErrorPolicyName(policy));
    MirrorRig rig(Policy(policy));
    rig.Fill(0, 4 * kMiB);
    rig.Start();
    if (!of_source()) {
      rig.source.EndAll();
      rig.Turn();
    }
    const std::string words = "an error of more letters than a string has room for by itself";
    broken(rig).fails = [&](const BlockOperation&) { return absl::DataLossError(words); };
    rig.EndAll();
    {
      const Scarcity none(Scarce::kMemory, 1, Refusals::kAllFromThere);
      rig.Turn();
    }
    EXPECT_GT(rig.figures().errors, 0u);
    EXPECT_EQ(rig.figures().in_flight_bytes, 0u);
    EXPECT_EQ(rig.figures().cause, words);
  }
}

}  // namespace
}  // namespace ferrite::migration
