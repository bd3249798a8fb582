// Holes and zeroes: what is neither read nor written.
#include <gtest/gtest.h>

#include <cstdint>
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

constexpr uint64_t kGiB = 1024 * kMiB;

TEST(MirrorZeroesTest, HolesCostNothingAtATargetThatIsZero) {
  MirrorRig rig({.target_is_zero = true}, kGiB);
  rig.Fill(100 * kMiB, 2 * kMiB);
  rig.Fill(kGiB - kChunk, kChunk);
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWrite], 2 * kMiB + kChunk);
  EXPECT_EQ(rig.source.submitted_bytes[Kind::kRead], 2 * kMiB + kChunk);
  EXPECT_EQ(rig.target.submitted[Kind::kWriteZeroes], 0u);
  EXPECT_EQ(rig.figures().copied_bytes, 2 * kMiB + kChunk);
}

TEST(MirrorZeroesTest, HolesAreZeroedInLargeOperationsElse) {
  MirrorRig rig({}, kGiB);
  rig.Fill(100 * kMiB, 2 * kMiB);
  rig.target.content.Write(3 * kMiB, MirrorRig::Data(9, kMiB).data(), kMiB);
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWriteZeroes], kGiB - 2 * kMiB);
  EXPECT_LE(rig.target.submitted[Kind::kWriteZeroes], 10u);
  EXPECT_EQ(rig.source.submitted_bytes[Kind::kRead], 2 * kMiB);
  EXPECT_EQ(rig.figures().zero_bytes, kGiB - 2 * kMiB);
  EXPECT_EQ(rig.figures().copied_bytes, kGiB);
}

TEST(MirrorZeroesTest, ZeroesInDataGoAsZeroes) {
  MirrorRig rig({}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  const std::vector<uint8_t> zeroes(kMiB, 0);
  rig.source.content.Write(kMiB + kChunk, zeroes.data(), 3 * kChunk);  // data that is zero
  rig.source.content.Write(2 * kMiB, zeroes.data(), kMiB);
  rig.source.content.Write(3 * kMiB + 4 * kKiB, zeroes.data(), 8 * kKiB);  // less than a chunk
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWriteZeroes], kMiB + 3 * kChunk);
  EXPECT_EQ(rig.target.submitted[Kind::kWriteZeroes], 2u);
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWrite], 3 * kMiB - 3 * kChunk);
  EXPECT_EQ(rig.figures().zero_bytes, kMiB + 3 * kChunk);
}

TEST(MirrorZeroesTest, ZeroesInDataCostNothingAtATargetThatIsZero) {
  MirrorRig rig({.target_is_zero = true}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  const std::vector<uint8_t> zeroes(kMiB, 0);
  rig.source.content.Write(kMiB + kChunk, zeroes.data(), 3 * kChunk);
  rig.source.content.Write(2 * kMiB, zeroes.data(), kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  EXPECT_EQ(rig.target.submitted[Kind::kWriteZeroes], 0u);
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWrite], 3 * kMiB - 3 * kChunk);
  // Once something was written there, it has to be zeroed.
  rig.Write(2 * kMiB, kChunk);
  rig.Settle();
  rig.Discard(2 * kMiB, kChunk);
  rig.Settle();
  EXPECT_EQ(rig.target.submitted_bytes[Kind::kWriteZeroes], kChunk);
  rig.Complete();
}

TEST(MirrorZeroesTest, SmallRunsOfZeroesDoNotCutAnOperation) {
  MirrorRig rig({.granularity = 4096}, 4 * kMiB);
  rig.Fill(0, 4 * kMiB);
  const std::vector<uint8_t> zeroes(4 * kKiB, 0);
  for (uint64_t at = 0; at < 4 * kMiB; at += 8 * kKiB) {
    rig.source.content.Write(at, zeroes.data(), zeroes.size());
  }
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.target.submitted[Kind::kWriteZeroes], 0u);
  EXPECT_EQ(rig.target.submitted[Kind::kWrite], rig.source.submitted[Kind::kRead]);
}

TEST(MirrorZeroesTest, ZeroesAtTheEdgesOfAnOperationAreDataButForTheEndOfTheDisk) {
  const uint64_t bytes = 4 * kMiB + 4 * kKiB;
  MirrorRig rig({.granularity = 4096}, bytes);
  rig.Fill(0, bytes);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  rig.Settle();
  const std::vector<uint8_t> zeroes(4 * kKiB, 0);
  rig.target.log.clear();
  (void)rig.Write(60 * kKiB, 72 * kKiB);
  rig.source.content.Write(60 * kKiB, zeroes.data(), zeroes.size());
  rig.source.content.Write(128 * kKiB, zeroes.data(), zeroes.size());
  rig.Settle();
  ASSERT_EQ(rig.target.log.size(), 1u);
  EXPECT_EQ(rig.target.log[0].kind, Kind::kWrite);
  rig.now += absl::Seconds(1);
  rig.target.log.clear();
  (void)rig.Write(4 * kMiB - 64 * kKiB, 68 * kKiB);
  rig.source.content.Write(4 * kMiB, zeroes.data(), zeroes.size());
  rig.Settle();
  ASSERT_EQ(rig.target.log.size(), 2u);
  EXPECT_EQ(rig.target.log[1].kind, Kind::kWriteZeroes);
  EXPECT_EQ(rig.target.log[1].bytes, 4 * kKiB);
  rig.Complete();
}

TEST(MirrorZeroesTest, AWriteIntoAHoleThatWasJustFoundIsCopied) {
  for (const bool target_is_zero : {false, true}) {
    MirrorRig rig({.target_is_zero = target_is_zero}, 64 * kMiB);
    int asked = 0;
    rig.source.asked = [&](uint64_t) {
      // Between what the mirror found and what it does about it.
      if (++asked == 2) {
        rig.Write(32 * kMiB, 4 * kKiB);
      }
    };
    rig.Start();
    rig.Write(5 * kMiB, kKiB);
    rig.Complete();
    EXPECT_GE(asked, 2);
  }
}

TEST(MirrorZeroesTest, AChunkThatIsPartlyAHoleIsRead) {
  MirrorRig rig({.granularity = 1 << 20, .target_is_zero = true}, 16 * kMiB);
  rig.Fill(3 * kMiB + 512 * kKiB, 4 * kKiB);
  rig.Start();
  rig.Complete();
  EXPECT_EQ(rig.source.submitted_bytes[Kind::kRead], kMiB);
}

TEST(MirrorZeroesTest, ASourceThatCannotTellIsRead) {
  MirrorRig unknown(
      {{.name = "source", .bytes = 4 * kMiB, .knows_extents = false}, {.name = "target", .bytes = 4 * kMiB}, {}});
  unknown.Fill(0, kChunk);
  unknown.Start();
  unknown.Complete();
  EXPECT_EQ(unknown.source.submitted_bytes[Kind::kRead], 4 * kMiB);
  EXPECT_EQ(unknown.target.submitted_bytes[Kind::kWrite], kChunk);

  MirrorRig broken({}, 4 * kMiB);
  broken.source.extent_error = absl::InternalError("no extents");
  broken.Fill(0, kChunk);
  broken.Start();
  broken.Complete();
  EXPECT_EQ(broken.source.submitted_bytes[Kind::kRead], 4 * kMiB);
  EXPECT_EQ(broken.figures().errors, 0u);
}

TEST(MirrorZeroesTest, AsksForExtentsOnceForWhatIsData) {
  MirrorRig rig({}, 64 * kMiB);
  rig.Fill(0, 64 * kMiB);
  rig.Start();
  ASSERT_TRUE(rig.RunUntil(MirrorState::kReady));
  EXPECT_LE(rig.source.extents_asked, 2u);
}

TEST(MirrorZeroesTest, A100GiBDiskCostsWhatItsDataCosts) {
  for (const bool target_is_zero : {false, true}) {
    MirrorRig rig({.target_is_zero = target_is_zero}, 100 * kGiB);
    for (uint64_t i = 0; i < 10; ++i) {
      rig.Fill(10 * i * kGiB + 12345 * 512, 256 * kKiB);
    }
    rig.Start();
    rig.Complete();
    EXPECT_LE(rig.source.submitted_bytes[Kind::kRead], 10 * 320 * kKiB);
    EXPECT_LE(rig.source.submitted[Kind::kRead], 20u);
    EXPECT_LE(rig.target.submitted[Kind::kWrite], 20u);
    EXPECT_LE(rig.target.submitted[Kind::kWriteZeroes], target_is_zero ? 0u : 900u);
    EXPECT_LE(rig.source.extents_asked, target_is_zero ? 100u : 2000u);
    EXPECT_LE(rig.turns, target_is_zero ? 20 : 300);
  }
}

}  // namespace
}  // namespace ferrite::migration
