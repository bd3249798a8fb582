#include "vmm/console/output_ring.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace ferrite {
namespace {

std::span<const uint8_t> Bytes(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string ReadAll(const OutputRing& ring, uint64_t position) {
  std::string text(ring.end() - position, '\0');
  const size_t n = ring.Read(position, {reinterpret_cast<uint8_t*>(text.data()), text.size()});
  EXPECT_EQ(n, text.size());
  return text;
}

TEST(OutputRingTest, HoldsTheLastBytesWhateverTheWritesAre) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    OutputRing ring(16);
    std::string all;
    for (int i = 0; i < 20; ++i) {
      std::string piece(random() % 40, '\0');
      for (char& c : piece) {
        c = static_cast<char>(random());
      }
      ring.Append(Bytes(piece));
      all += piece;
      ASSERT_EQ(ring.end(), all.size());
      ASSERT_EQ(ring.end() - ring.begin(), std::min<size_t>(16, all.size()));
      ASSERT_EQ(ReadAll(ring, ring.begin()), all.substr(ring.begin()));
    }
  }
}

TEST(OutputRingTest, ReadsNoMoreThanFits) {
  OutputRing ring(16);
  ring.Append(Bytes("0123456789"));
  uint8_t out[4];
  EXPECT_EQ(ring.Read(2, out), 4u);
  EXPECT_EQ(std::string(out, out + 4), "2345");
  EXPECT_EQ(ring.Read(8, out), 2u);
  EXPECT_EQ(ring.Read(10, out), 0u);
}

}  // namespace
}  // namespace ferrite
