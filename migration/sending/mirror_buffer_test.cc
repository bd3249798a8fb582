#include "migration/sending/mirror_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace ferrite::migration {
namespace {

constexpr uint64_t kSlot = 4096;

TEST(MirrorBufferTest, GivesNeighbouringSlots) {
  MirrorBuffer buffer = *MirrorBuffer::Create(10 * kSlot + 5, kSlot);
  EXPECT_EQ(buffer.bytes(), 10 * kSlot);
  const std::span<uint8_t> a = buffer.Allocate(1, 3 * kSlot - 1, 0);
  EXPECT_EQ(a.size(), 3 * kSlot);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.data()) % 4096, 0u);
  const std::span<uint8_t> b = buffer.Allocate(1, 2 * kSlot, 0);
  EXPECT_EQ(b.data(), a.data() + a.size());
  buffer.Free(a);
  EXPECT_EQ(buffer.used_bytes(), 2 * kSlot);
  EXPECT_EQ(buffer.Allocate(1, 4 * kSlot, 0).data(), b.data() + b.size()) << "where it has room";
  EXPECT_EQ(buffer.Allocate(1, 4 * kSlot, 0).size(), 3 * kSlot) << "the largest piece";
  EXPECT_EQ(buffer.Allocate(2 * kSlot, 4 * kSlot, 0).size(), 0u);
  EXPECT_EQ(buffer.Allocate(kSlot, 4 * kSlot, 0).size(), kSlot);
  EXPECT_TRUE(buffer.Allocate(1, 1, 0).empty());
}

TEST(MirrorBufferTest, LeavesSomeToOthers) {
  MirrorBuffer buffer = *MirrorBuffer::Create(8 * kSlot, kSlot);
  const std::span<uint8_t> a = buffer.Allocate(1, 8 * kSlot, 2 * kSlot);
  EXPECT_EQ(a.size(), 6 * kSlot);
  EXPECT_TRUE(buffer.Allocate(1, kSlot, 2 * kSlot).empty());
  EXPECT_EQ(buffer.Allocate(1, kSlot, kSlot).size(), kSlot);
}

TEST(MirrorBufferTest, Shrinks) {
  MirrorBuffer buffer = *MirrorBuffer::Create(8 * kSlot, kSlot);
  std::span<uint8_t> piece = buffer.Allocate(1, 8 * kSlot, 0);
  buffer.Shrink(piece, 3 * kSlot + 1);
  EXPECT_EQ(piece.size(), 4 * kSlot);
  EXPECT_EQ(buffer.used_bytes(), 4 * kSlot);
  buffer.Shrink(piece, 0);
  EXPECT_EQ(piece.size(), kSlot);
  buffer.Free(piece);
  EXPECT_EQ(buffer.used_bytes(), 0u);
  buffer.Free({});
}

TEST(MirrorBufferTest, PiecesDoNotOverlap) {
  MirrorBuffer buffer = *MirrorBuffer::Create(64 * kSlot, kSlot);
  std::mt19937 random(3);
  std::vector<std::span<uint8_t>> pieces;
  for (int i = 0; i < 5000; ++i) {
    if (random() % 2 == 0) {
      const std::span<uint8_t> piece = buffer.Allocate(1 + random() % (4 * kSlot), 1 + random() % (20 * kSlot), 0);
      for (const std::span<uint8_t>& other : pieces) {
        ASSERT_TRUE(piece.empty() || piece.data() + piece.size() <= other.data() ||
                    other.data() + other.size() <= piece.data());
      }
      if (!piece.empty()) {
        piece.front() = piece.back() = 1;
        pieces.push_back(piece);
      }
    } else if (!pieces.empty()) {
      std::swap(pieces[random() % pieces.size()], pieces.back());
      buffer.Free(pieces.back());
      pieces.pop_back();
    }
    uint64_t used = 0;
    for (const std::span<uint8_t>& piece : pieces) {
      used += piece.size();
    }
    ASSERT_EQ(buffer.used_bytes(), used);
  }
}

}  // namespace
}  // namespace ferrite::migration
