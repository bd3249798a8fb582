// What a mirror copies and how: merging, clusters, ends of disks. mirror_zeroes_test.cc, mirror_states_test.cc,
// mirror_errors_test.cc and mirror_blocking_test.cc have the rest, mirror_random_test.cc all at once.
#include "migration/sending/mirror.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/api/block_io.h"
#include "tests/fakes/fake_block_io.h"
#include "tests/fakes/mirror_rig.h"

namespace ferrite::migration {
namespace {

using Kind = BlockOperation::Kind;

TEST(MirrorTest, MakesTheTargetEqualAndFlushesIt) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWrite], 4 * kMiB) << "once";
  EXPECT_EQ(rig.source.submitted_bytes[Kind::kRead], 4 * kMiB);
  EXPECT_EQ(rig.target.submitted[Kind::kFlush], 1u);
  EXPECT_EQ(rig.target.log.back().kind, Kind::kFlush);
  EXPECT_EQ(rig.source.submitted.size(), 1u) << "nothing but reads";
  const MirrorFigures figures = rig.figures();
  EXPECT_EQ(figures.total_bytes, 4 * kMiB);
  EXPECT_EQ(figures.done_bytes, 4 * kMiB);
  EXPECT_EQ(figures.dirty_bytes, 0u);
  EXPECT_EQ(figures.in_flight_bytes, 0u);
  EXPECT_EQ(figures.copied_bytes, 4 * kMiB);
  EXPECT_EQ(figures.again_bytes, 0u);
  EXPECT_EQ(figures.zero_bytes, 0u);
  EXPECT_GT(figures.rate, 0);
  EXPECT_TRUE(rig.mirror->idle());
}

TEST(MirrorTest, MergesNeighboursAndKeepsSeveralInFlight) {
  MirrorRig rig({}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  EXPECT_EQ(rig.source.in_flight(), 1u) << "what the disks bear is not known yet";
  EXPECT_TRUE(rig.RunUntil([&] { return rig.figures().in_flight_bytes == 16 * kMiB; })) << "the buffer";
  rig.Complete();
  EXPECT_EQ(rig.source.submitted[Kind::kRead], 64u);
  EXPECT_EQ(rig.source.longest, kMiB);
  EXPECT_LE(rig.source.most_in_flight, 16u);
  EXPECT_LE(rig.target.most_in_flight, 16u);
}

TEST(MirrorTest, NeverHasMoreInFlightThanItMay) {
  for (const uint32_t in_flight : {1u, 2u, 256u}) {
    MirrorRig rig({.in_flight = in_flight}, 32 * kMiB);
    rig.Fill(0, 32 * kMiB);
    rig.Start();
    size_t most = 0;
    EXPECT_TRUE(rig.RunUntil([&] {
      most = std::max(most, rig.source.in_flight() + rig.target.in_flight());
      return rig.figures().state == MirrorState::kReady;
    }));
    EXPECT_LE(most, in_flight);
    EXPECT_GE(most, std::min(in_flight, 64u)) << "as many as the buffer has room for";
    rig.Complete();
  }
}

TEST(MirrorTest, KicksOnceForWhatATurnStarts) {
  MirrorRig rig({}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  EXPECT_EQ(rig.source.kicks, 1u);
  EXPECT_EQ(rig.target.kicks, 0u);
  ASSERT_TRUE(rig.RunUntil([&] { return rig.source.in_flight() > 4; }));
  const size_t reads = rig.source.in_flight();
  const int asks = rig.asks;
  const size_t kicks = rig.target.kicks;
  rig.EndAll();
  EXPECT_EQ(rig.asks, asks + 1) << "told once of many ends";
  rig.Turn();
  EXPECT_EQ(rig.target.kicks, kicks + 1);
  EXPECT_EQ(rig.target.in_flight(), reads);
}

TEST(MirrorTest, OperationsEndInAnyOrder) {
  MirrorRig rig({}, 8 * kMiB);
  rig.Fill(0, 8 * kMiB);
  rig.Start();
  for (int i = 0; i < 1000 && rig.figures().state != MirrorState::kReady; ++i) {
    if (rig.target.ready() > 0) {
      rig.target.End(rig.target.ready() - 1);
    } else if (rig.source.ready() > 0) {
      rig.source.End(rig.source.ready() - 1);
    }
    rig.Turn();
  }
  rig.Complete();
}

TEST(MirrorTest, WhatIsWrittenInFlightIsCopiedAgain) {
  for (const bool at_kick : {false, true}) {
    MirrorRig rig({}, 4 * kMiB);
    rig.source.at_kick = rig.target.at_kick = [&](const BlockOperation&) { return at_kick; };
    rig.Fill(0, 4 * kMiB);
    rig.Start();
    EXPECT_EQ(rig.Write(kMiB / 2, 4 * kKiB), 0u) << "held in the background";
    const MirrorFigures figures = rig.figures();
    EXPECT_EQ(figures.dirty_bytes, 3 * kMiB + kChunk);
    EXPECT_EQ(figures.in_flight_bytes, kMiB - kChunk);
    EXPECT_EQ(figures.done_bytes, 0u);
    rig.Complete();
    EXPECT_EQ(rig.figures().again_bytes, kChunk);
  }
}

TEST(MirrorTest, WritesClustersWholeTheFirstTime) {
  const uint64_t bytes = 4 * kMiB;
  MirrorRig rig({{.name = "source", .bytes = bytes},
                 {.name = "target", .bytes = bytes, .cluster_bytes = 256 * kKiB},
                 {.granularity = 4096, .target_is_zero = true}});
  rig.Fill(300 * kKiB, 4 * kKiB);
  rig.Fill(kMiB - 4 * kKiB, 8 * kKiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  std::set<uint64_t> clusters;
  for (const FakeBlockIo::Entry& entry : rig.target.log) {
    EXPECT_EQ(entry.offset % (256 * kKiB), 0u);
    EXPECT_EQ(entry.bytes % (256 * kKiB), 0u);
    for (uint64_t at = entry.offset; at < entry.offset + entry.bytes; at += 256 * kKiB) {
      clusters.insert(at);
    }
  }
  EXPECT_EQ(clusters, (std::set<uint64_t>{256 * kKiB, 768 * kKiB, kMiB}));
  // What the guest writes later: the first time whole, then by chunks.
  rig.target.log.clear();
  rig.Write(2 * kMiB + 40 * kKiB, 512);
  rig.Settle();
  ASSERT_EQ(rig.target.log.size(), 1u);
  EXPECT_EQ(rig.target.log[0].offset, 2 * kMiB);
  EXPECT_EQ(rig.target.log[0].bytes, 256 * kKiB);
  rig.now += absl::Seconds(1);
  rig.Write(2 * kMiB + 40 * kKiB, 512);
  rig.Settle();
  ASSERT_EQ(rig.target.log.size(), 2u);
  EXPECT_EQ(rig.target.log[1].offset, 2 * kMiB + 40 * kKiB);
  EXPECT_EQ(rig.target.log[1].bytes, 4 * kKiB);
  rig.Complete();
}

TEST(MirrorTest, CopiesTheEndThatIsNoMultiple) {
  const uint64_t bytes = 3 * kMiB + 5 * 512;
  for (const uint32_t cluster : {512u, 1u << 20}) {
    MirrorRig rig({{.name = "source", .bytes = bytes},
                   {.name = "target", .bytes = bytes + 512, .cluster_bytes = cluster},
                   {.granularity = 1 << 18}});
    rig.Fill(0, bytes);
    rig.Start();
    rig.Complete();
    EXPECT_EQ(rig.figures().copied_bytes, bytes);
    EXPECT_EQ(rig.figures().total_bytes, bytes);
    EXPECT_EQ(rig.figures().done_bytes, bytes);
  }
}

TEST(MirrorTest, RaisesTheGranularityToABlock) {
  MirrorRig rig({{.name = "source", .bytes = 4 * kMiB},
                 {.name = "target", .bytes = 4 * kMiB, .block_bytes = 1 << 20, .cluster_bytes = 1 << 20},
                 {}});
  rig.Fill(0, kChunk);
  rig.Start();
  rig.Complete();
  rig.Write(7, 1);
}

TEST(MirrorTest, RefusesWhatDoesNotFit) {
  struct Case {
    FakeBlockIo::Shape source, target;
    MirrorOptions options;
    absl::StatusCode code;
    const char* says;
  };
  const Case cases[] = {
      {{.name = "s", .bytes = 8192},
       {.name = "t", .bytes = 4096},
       {},
       absl::StatusCode::kFailedPrecondition,
       "8192 bytes do not fit into 4096"},
      {{.name = "s", .bytes = 0}, {.name = "t", .bytes = 4096}, {}, absl::StatusCode::kFailedPrecondition, "empty"},
      {{.name = "s", .bytes = 512},
       {.name = "t", .bytes = 4096, .block_bytes = 4096, .cluster_bytes = 4096},
       {},
       absl::StatusCode::kFailedPrecondition,
       "no multiple of the 4096 bytes of a block of t"},
      {{.name = "s", .bytes = 4096},
       {.name = "t", .bytes = 4096, .cluster_bytes = 32 << 20},
       {},
       absl::StatusCode::kInvalidArgument,
       "at least 33554432"},
      {{.name = "s", .bytes = 4096},
       {.name = "t", .bytes = 4096},
       {.granularity = 1000},
       absl::StatusCode::kInvalidArgument,
       "granularity 1000"},
  };
  for (const Case& refused : cases) {
    MirrorRig rig({refused.source, refused.target, refused.options});
    struct Nobody final : Mirror::Listener {
      void TurnSoon() override {}
      void Answer(uint64_t) override {}
    } nobody;
    const absl::Status status = Mirror::Create(rig.source, rig.target, rig.options, nobody).status();
    EXPECT_EQ(status.code(), refused.code) << status;
    EXPECT_NE(status.message().find(refused.says), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace ferrite::migration
