#include "migration/sending/chunk_bitmap.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace ferrite::migration {
namespace {

ChunkBitmap Of(uint64_t chunks) { return *ChunkBitmap::Create(chunks); }

TEST(ChunkBitmapTest, RefusesSizesThatCannotBe) {
  EXPECT_EQ(ChunkBitmap::Create(0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ChunkBitmap::Create(ChunkBitmap::kMostChunks + 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChunkBitmapTest, FindsTheOnlyChunkOfTwoBillion) {
  ChunkBitmap bitmap = Of(ChunkBitmap::kMostChunks);
  EXPECT_EQ(bitmap.FindSet(0), std::nullopt);
  const uint64_t last = ChunkBitmap::kMostChunks - 1;
  EXPECT_EQ(bitmap.SetRange(last, 1), 1u);
  // A million times in a moment: it reads a few words each time.
  for (uint64_t from = 0; from < 1'000'000; ++from) {
    ASSERT_EQ(bitmap.FindSet(from), last);
  }
  EXPECT_EQ(bitmap.FindSet(last), last);
  EXPECT_EQ(bitmap.count(), 1u);
  EXPECT_EQ(bitmap.ClearRange(last, 1), 1u);
  EXPECT_EQ(bitmap.FindSet(0), std::nullopt);
}

TEST(ChunkBitmapTest, CountsWhatChanges) {
  ChunkBitmap bitmap = Of(100'000);
  EXPECT_EQ(bitmap.SetRange(10, 90'000), 90'000u);
  EXPECT_EQ(bitmap.SetRange(0, 100), 10u);
  EXPECT_EQ(bitmap.ClearRange(50, 99'950), 89'960u);
  EXPECT_EQ(bitmap.count(), 50u);
  EXPECT_EQ(bitmap.ClearRange(50, 99'950), 0u);
  EXPECT_EQ(bitmap.SetRange(7, 0), 0u);
  EXPECT_EQ(bitmap.ClearRange(7, 0), 0u);
}

TEST(ChunkBitmapTest, KeepsWhatLiesBesideAClearedRange) {
  ChunkBitmap bitmap = Of(300'000);
  (void)bitmap.SetRange(0, 300'000);
  (void)bitmap.ClearRange(1, 299'998);
  EXPECT_EQ(bitmap.FindSet(0), 0u);
  EXPECT_EQ(bitmap.FindSet(1), 299'999u);
  (void)bitmap.ClearRange(0, 1);
  EXPECT_EQ(bitmap.FindSet(0), 299'999u);
  (void)bitmap.ClearRange(299'999, 1);
  EXPECT_EQ(bitmap.FindSet(0), std::nullopt);
}

TEST(ChunkBitmapTest, FindsTheEndOfARun) {
  ChunkBitmap bitmap = Of(1000);
  (void)bitmap.SetRange(60, 200);
  EXPECT_EQ(bitmap.FindClear(60, 1000), 260u);
  EXPECT_EQ(bitmap.FindClear(60, 100), 100u);
  EXPECT_EQ(bitmap.FindClear(5, 1000), 5u);
  (void)bitmap.SetRange(260, 740);
  EXPECT_EQ(bitmap.FindClear(60, 1000), 1000u);
}

TEST(ChunkBitmapTest, CountsWhatTwoHaveInCommon) {
  ChunkBitmap a = Of(200'000);
  ChunkBitmap b = Of(200'000);
  (void)a.SetRange(0, 150'000);
  (void)b.SetRange(149'900, 300);
  EXPECT_EQ(ChunkBitmap::CountCommon(a, b), 100u);
  ChunkBitmap small = Of(3);
  (void)small.SetRange(1, 2);
  EXPECT_EQ(ChunkBitmap::CountCommon(small, small), 2u);
}

}  // namespace
}  // namespace ferrite::migration
