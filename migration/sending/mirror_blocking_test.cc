// Write-blocking: which of the guest's writes wait, and for what.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

MirrorOptions Blocking() { return {.copy_mode = CopyMode::kWriteBlocking}; }

// Has copied all of a disk of data.
class ReadyRig {
 public:
  explicit ReadyRig(const MirrorOptions& options) : rig(options, 4 * kMiB) {
    rig.Fill(0, 4 * kMiB);
    rig.Start();
    EXPECT_TRUE(rig.RunUntil(MirrorState::kReady));
    rig.Settle();
    rig.now += absl::Seconds(1);
    rig.source.log.clear();
    rig.target.log.clear();
  }
  MirrorRig rig;
};

TEST(MirrorBlockingTest, AWriteIsAnsweredWhenTheTargetHasIt) {
  ReadyRig ready(Blocking());
  MirrorRig& rig = ready.rig;
  rig.answered = [&](uint64_t) { rig.ExpectEqual(); };
  EXPECT_NE(rig.Write(kMiB + 4 * kKiB, 4 * kKiB), 0u);
  EXPECT_EQ(rig.figures().in_flight_bytes, kChunk);
  EXPECT_EQ(rig.figures().dirty_bytes, 0u);
  EXPECT_TRUE(rig.turn_soon);
  rig.Turn();
  rig.EndAll();
  rig.Turn();
  EXPECT_EQ(rig.held.size(), 1u) << "it was read, and not written";
  rig.EndAll();
  EXPECT_EQ(rig.held.size(), 1u);
  rig.Turn();
  EXPECT_TRUE(rig.held.empty());
  ASSERT_EQ(rig.source.log.size(), 1u);
  EXPECT_EQ(rig.source.log[0].offset, kMiB + 4 * kKiB);
  EXPECT_EQ(rig.source.log[0].bytes, 4 * kKiB);
  ASSERT_EQ(rig.target.log.size(), 1u);
  EXPECT_EQ(rig.target.log[0].bytes, 4 * kKiB);
  EXPECT_EQ(rig.figures().held_writes, 1u);
  EXPECT_EQ(rig.figures().done_bytes, 4 * kMiB);
  rig.Complete();
}

TEST(MirrorBlockingTest, APartOfABlockIsRoundedToIt) {
  const uint64_t bytes = 4 * kMiB;
  MirrorRig rig({{.name = "source", .bytes = bytes},
                 {.name = "target", .bytes = bytes, .block_bytes = 4096, .cluster_bytes = 4096},
                 Blocking()});
  rig.Fill(0, bytes);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  rig.target.log.clear();
  rig.Write(kMiB + 3 * kKiB + 512, kKiB);
  rig.Settle();
  ASSERT_EQ(rig.target.log.size(), 1u);
  EXPECT_EQ(rig.target.log[0].offset, kMiB);
  EXPECT_EQ(rig.target.log[0].bytes, 8 * kKiB);
  rig.Complete();
}

TEST(MirrorBlockingTest, WritesOfOneChunkDoNotMixUp) {
  for (const bool at_kick : {false, true}) {
    ReadyRig ready(Blocking());
    MirrorRig& rig = ready.rig;
    rig.source.at_kick = [&](const BlockOperation&) { return at_kick; };
    const uint64_t first = rig.Write(kMiB, 4 * kKiB, 2);
    const uint64_t second = rig.Write(kMiB + 8 * kKiB, 4 * kKiB, 3);
    ASSERT_NE(first, 0u);
    ASSERT_NE(second, 0u);
    EXPECT_EQ(rig.figures().dirty_bytes, kChunk) << "it is in flight, and dirty again";
    EXPECT_EQ(rig.figures().in_flight_bytes, 0u);
    std::vector<uint64_t> order;
    rig.answered = [&](uint64_t ticket) {
      order.push_back(ticket);
      if (ticket == second) {
        rig.ExpectEqual();
      }
    };
    rig.Turn();
    const uint64_t third = rig.Write(kMiB, 512, 4);  // while it is read
    rig.Settle();
    EXPECT_EQ(order, (std::vector<uint64_t>{first, second, third}));
    rig.Complete();
  }
}

TEST(MirrorBlockingTest, AWriteThatAlwaysComesAnewIsAnsweredOnce) {
  ReadyRig ready(Blocking());
  MirrorRig& rig = ready.rig;
  const uint64_t first = rig.Write(kMiB, 4 * kKiB);
  (void)rig.Write(kMiB, 4 * kKiB);
  for (int i = 0; i < 12; ++i) {
    rig.Turn();
    rig.EndAll();
    (void)rig.Write(kMiB, 4 * kKiB, static_cast<uint8_t>(i));
  }
  EXPECT_FALSE(rig.held.contains(first));
  EXPECT_LE(rig.held.size(), 8u) << "the chunk is dirty all the time, and each write waits for a copy or two";
  rig.Complete();
}

TEST(MirrorBlockingTest, GoesBeforeTheBackgroundAndTheRateLimit) {
  MirrorOptions options = Blocking();
  options.max_bandwidth = 1 << 20;
  options.in_flight = 4;
  MirrorRig rig(options, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  const uint64_t ticket = rig.Write(50 * kMiB, 4 * kKiB);
  EXPECT_NE(ticket, 0u);
  const MonotonicTime began = rig.now;
  EXPECT_TRUE(rig.RunUntil([&] { return rig.held.empty(); }, 50));
  EXPECT_LE(rig.now - began, absl::Milliseconds(10));
  EXPECT_TRUE(std::any_of(rig.target.log.begin(), rig.target.log.end(), [](const FakeBlockIo::Entry& entry) {
    return entry.offset == 50 * kMiB && entry.bytes == kChunk;
  })) << "the chunk was dirty: all of it";
}

TEST(MirrorBlockingTest, TheBackgroundLeavesRoomForIt) {
  // Of the buffer, or of the operations alone.
  for (const uint64_t buffer : {16 * kMiB, 256 * kMiB}) {
    MirrorOptions options = Blocking();
    options.buffer_bytes = buffer;
    MirrorRig rig(options, 128 * kMiB);
    rig.Fill(0, 128 * kMiB);
    rig.Start();
    const auto in_flight = [&] { return rig.source.in_flight() + rig.target.in_flight(); };
    EXPECT_TRUE(rig.RunUntil([&] { return in_flight() == 12; }));
    rig.Turn();
    EXPECT_EQ(in_flight(), 12u);
    (void)rig.Write(50 * kMiB, 4 * kKiB);
    rig.Turn();
    EXPECT_EQ(in_flight(), 13u);
    EXPECT_EQ(rig.source.log.back().offset, 50 * kMiB);
  }
}

TEST(MirrorBlockingTest, OneOperationIsEnough) {
  for (const uint64_t buffer : {1 * kMiB, 2 * kMiB}) {
    MirrorOptions options = Blocking();
    options.in_flight = 1;
    options.granularity = 1 << 20;
    options.buffer_bytes = buffer;
    MirrorRig rig(options, 8 * kMiB);
    rig.Fill(0, 8 * kMiB);
    rig.Start();
    (void)rig.Write(7 * kMiB, 512);
    rig.Complete();
    EXPECT_TRUE(rig.held.empty());
  }
}

TEST(MirrorBlockingTest, ALargeWriteWaitsForAllOfIt) {
  ReadyRig ready(Blocking());
  MirrorRig& rig = ready.rig;
  rig.answered = [&](uint64_t) { rig.ExpectEqual(); };
  (void)rig.Write(100 * kKiB, 3 * kMiB);
  (void)rig.Discard(512 * kKiB, kMiB);
  rig.Turn();
  // Ends in the other order.
  for (int i = 0; i < 200 && !rig.held.empty(); ++i) {
    if (rig.source.ready() > 0) {
      rig.source.End(rig.source.ready() - 1);
    } else if (rig.target.ready() > 0) {
      rig.target.End(rig.target.ready() - 1);
    }
    rig.Turn();
  }
  EXPECT_TRUE(rig.held.empty());
  EXPECT_GT(rig.target.submitted_bytes[Kind::kWriteZeroes], 0u);
  rig.Complete();
}

TEST(MirrorBlockingTest, LetsAllGoWhenItHoldsNoMore) {
  struct Case {
    const char* name;
    std::function<void(MirrorRig&)> end;
    MirrorState state;
  };
  const Case cases[] = {
      {"pause", [](MirrorRig& rig) { EXPECT_TRUE(rig.mirror->Pause().ok()); }, MirrorState::kPaused},
      {"cancel", [](MirrorRig& rig) { EXPECT_TRUE(rig.mirror->Cancel().ok()); }, MirrorState::kCancelled},
      {"background", [](MirrorRig& rig) { rig.mirror->SetCopyMode(CopyMode::kBackground); }, MirrorState::kReady},
      {"failure",
       [](MirrorRig& rig) {
         rig.target.fails = [](const BlockOperation&) { return absl::InternalError("broken"); };
         rig.EndAll();
         rig.Turn();
         rig.EndAll();
         rig.Turn();
       },
       MirrorState::kFailed},
  };
  for (const Case& ends : cases) {
    SCOPED_TRACE(ends.name);
    for (const bool is_started : {false, true}) {
      ReadyRig ready(Blocking());
      MirrorRig& rig = ready.rig;
      (void)rig.Write(kMiB, 4 * kKiB);
      (void)rig.Write(kMiB, 4 * kKiB);
      (void)rig.Write(2 * kMiB, 256 * kKiB);
      if (is_started || ends.state == MirrorState::kFailed) {
        rig.Turn();
      }
      ends.end(rig);
      EXPECT_TRUE(rig.held.empty());
      EXPECT_EQ(rig.figures().state, ends.state);
      EXPECT_EQ(rig.Write(3 * kMiB, 512), 0u);
      rig.EndAll();
      rig.Turn();
      if (ends.state == MirrorState::kPaused) {
        EXPECT_EQ(rig.figures().dirty_bytes, 6 * kChunk);
        EXPECT_EQ(rig.figures().in_flight_bytes, 0u);
        ASSERT_TRUE(rig.mirror->Resume().ok());
        EXPECT_NE(rig.Write(3 * kMiB, 512), 0u) << "holds again";
      }
      if (ends.state == MirrorState::kPaused || ends.state == MirrorState::kReady) {
        rig.Complete();
      }
    }
  }
}

TEST(MirrorBlockingTest, AFullTableAnswersAtOnce) {
  MirrorRig rig(Blocking(), 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  int held = 0;
  for (int i = 0; i < 1100; ++i) {
    held += rig.Write(60 * kMiB, 512, static_cast<uint8_t>(i)) != 0 ? 1 : 0;
  }
  EXPECT_EQ(held, 1024);
  rig.Complete();
  EXPECT_TRUE(rig.held.empty());
}

TEST(MirrorBlockingTest, BeginsByItselfWhenTheBackgroundDoesNotConverge) {
  for (const bool turns : {true, false}) {
    MirrorRig rig({.downtime_limit = absl::Milliseconds(1), .turn_write_blocking = turns}, 16 * kMiB);
    rig.Fill(0, 16 * kMiB);
    rig.Start();
    // As much becomes dirty as is copied.
    uint64_t at = 0;
    const auto write = [&] {
      for (int i = 0; i < 40; ++i) {
        at = (at + 37 * kChunk) % (16 * kMiB);
        (void)rig.Write(at, 4 * kKiB);
      }
    };
    EXPECT_EQ(rig.RunUntil(
                  [&] {
                    write();
                    return rig.figures().copy_mode == CopyMode::kWriteBlocking;
                  },
                  600, absl::Milliseconds(10)),
              turns);
    if (turns) {
      EXPECT_NE(rig.Write(0, 512), 0u);
      EXPECT_GE(rig.figures().took, absl::Seconds(2));
      // Who wants the background has it.
      rig.mirror->SetCopyMode(CopyMode::kBackground);
      EXPECT_FALSE(rig.RunUntil(
          [&] {
            write();
            return rig.figures().copy_mode == CopyMode::kWriteBlocking;
          },
          600, absl::Milliseconds(10)));
    }
    rig.mirror->SetCopyMode(CopyMode::kWriteBlocking);
    rig.Complete();
  }
}

}  // namespace
}  // namespace ferrite::migration
