#include "devices/balloon/small_blocks.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>

#include "devices/balloon/balloon_pages.h"
#include "memory/guest_memory.h"

namespace ferrite {
namespace {

constexpr uint64_t kBlock = 512;  // pages

// "hg" where huge pages are asked for at `address`, "nh" where they are refused.
std::string Advice(const uint8_t* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    uint64_t begin = 0;
    uint64_t end = 0;
    char dash = 0;
    std::istringstream words(line);
    if (words >> std::hex >> begin >> dash >> end && dash == '-') {
      inside = begin <= reinterpret_cast<uint64_t>(address) && reinterpret_cast<uint64_t>(address) < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line.find(" nh") != std::string::npos ? "nh" : line.find(" hg") != std::string::npos ? "hg" : "";
    }
  }
  return "unmapped";
}

std::unique_ptr<MemoryRegion> Make(uint64_t pages, MemoryBacking backing = MemoryBacking::kAnonymous) {
  auto region = MemoryRegion::Create("ram-low", GuestAddress(0), pages * kPageBytes, backing);
  return region.ok() && (*region)->SetThp(true).ok() ? *std::move(region) : nullptr;
}

std::string AdviceOf(const MemoryRegion& region, uint64_t page) {
  return Advice(region.guest_mapping().data() + page * kPageBytes);
}

TEST(SmallBlocksTest, BlocksAreKeptSmallUntilTheyAreReleased) {
  const auto region = Make(4 * kBlock);
  ASSERT_NE(region, nullptr);
  SmallBlocks blocks(*region);
  blocks.Keep(2 * kBlock - 1, 2);
  EXPECT_FALSE(blocks.kept(0));
  EXPECT_TRUE(blocks.kept(kBlock));
  EXPECT_TRUE(blocks.kept(3 * kBlock - 1));
  EXPECT_EQ(AdviceOf(*region, kBlock - 1), "hg");
  EXPECT_EQ(AdviceOf(*region, kBlock), "nh");
  EXPECT_EQ(AdviceOf(*region, 3 * kBlock - 1), "nh");
  EXPECT_EQ(AdviceOf(*region, 3 * kBlock), "hg");
  blocks.Release(kBlock + 7);
  EXPECT_EQ(AdviceOf(*region, kBlock), "hg");
  EXPECT_EQ(AdviceOf(*region, 2 * kBlock), "nh");
  blocks.Keep(0, 1);
  blocks.ReleaseAll();
  EXPECT_FALSE(blocks.kept(0) || blocks.kept(2 * kBlock));
  EXPECT_EQ(AdviceOf(*region, 0), "hg");
  EXPECT_EQ(AdviceOf(*region, 2 * kBlock), "hg");
}

TEST(SmallBlocksTest, MemoryWithoutHugePagesStaysAsItIs) {
  const auto anonymous = Make(2 * kBlock);
  ASSERT_NE(anonymous, nullptr);
  SmallBlocks blocks(*anonymous);
  blocks.Keep(0, 1);
  // As while a move arrives.
  ASSERT_TRUE(anonymous->SetThp(false).ok());
  blocks.Keep(kBlock, 1);
  EXPECT_FALSE(blocks.kept(kBlock));
  blocks.Release(0);
  EXPECT_EQ(AdviceOf(*anonymous, 0), "nh");
  const auto shared = Make(kBlock, MemoryBacking::kMemfd);
  ASSERT_NE(shared, nullptr);
  SmallBlocks none(*shared);
  none.Keep(0, 1);
  EXPECT_FALSE(none.kept(0));
}

TEST(SmallBlocksTest, TheLastBlockMayBeAPart) {
  const auto region = Make(kBlock + 3);
  ASSERT_NE(region, nullptr);
  SmallBlocks blocks(*region);
  blocks.Keep(kBlock + 2, 1);
  PageBitmap pages(kBlock + 3);
  pages.Set(kBlock - 1);
  EXPECT_TRUE(SmallBlocks::IsBlockClear(kBlock, pages));
  EXPECT_FALSE(SmallBlocks::IsBlockClear(0, pages));
  pages.Set(kBlock + 2);
  EXPECT_FALSE(SmallBlocks::IsBlockClear(kBlock, pages));
  EXPECT_EQ(AdviceOf(*region, kBlock), "nh");
  EXPECT_EQ(AdviceOf(*region, kBlock - 1), "hg");
}

// Of addresses alone: nothing is touched.
TEST(SmallBlocksTest, AScatteredBalloonMakesNoMoreMappingsThanAllowed) {
  constexpr uint64_t kMost = SmallBlocks::kMostPieces;
  const auto region = Make((2 * kMost + 4) * kBlock);
  ASSERT_NE(region, nullptr);
  SmallBlocks blocks(*region);
  for (uint64_t i = 0; i <= kMost; ++i) {
    blocks.Keep(2 * i * kBlock, 1);
  }
  EXPECT_TRUE(blocks.kept(2 * (kMost - 1) * kBlock));
  EXPECT_FALSE(blocks.kept(2 * kMost * kBlock));
  // Beside another, or between two, is no further piece.
  blocks.Keep(kBlock, 1);
  EXPECT_TRUE(blocks.kept(kBlock));
  blocks.Keep(2 * kMost * kBlock, 1);
  EXPECT_TRUE(blocks.kept(2 * kMost * kBlock));
  // One in the middle makes two of one.
  blocks.Release(kBlock);
  EXPECT_FALSE(blocks.kept(kBlock));
  blocks.Keep((2 * kMost + 2) * kBlock, 1);
  EXPECT_FALSE(blocks.kept((2 * kMost + 2) * kBlock));
}

class HugeBalloonTest : public testing::Test {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::Create(8 * kBlock * kPageBytes, MemoryBacking::kAnonymous);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    ASSERT_TRUE(ram().SetThp(true).ok());
    pages_ = std::make_unique<BalloonPages>(*memory_);
  }
  MemoryRegion& ram() { return *memory_->regions()[0]; }
  uint8_t* Page(uint64_t page) { return ram().guest_mapping().data() + page * kPageBytes; }
  void Inflate(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      ASSERT_TRUE(pages_->Inflate(page));
    }
    BalloonPages::Share share = {.pages = count, .calls = count};
    EXPECT_EQ(pages_->Reclaim(share), count * kPageBytes);
  }

  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<BalloonPages> pages_;
};

TEST_F(HugeBalloonTest, ATouchTakesNothingBackThatIsInTheBalloon) {
  Inflate(kBlock, 2 * kBlock);
  BalloonPages::Share share = {.pages = 0, .calls = 8};
  ASSERT_TRUE(pages_->Deflate(kBlock + 1, share));
  const uint64_t before = *ram().ResidentBytes();
  *Page(kBlock + 1) = 1;
  EXPECT_EQ(*ram().ResidentBytes() - before, kPageBytes);
  EXPECT_EQ(share.calls, 8u);
}

TEST_F(HugeBalloonTest, ABlockThatLeftTheBalloonMayBeHugeAgain) {
  std::memset(Page(0), 1, ram().bytes());
  Inflate(kBlock + 3, 2);
  EXPECT_EQ(AdviceOf(ram(), kBlock), "nh");
  EXPECT_EQ(AdviceOf(ram(), 0), "hg");
  BalloonPages::Share share = {.pages = 0, .calls = 8};
  ASSERT_TRUE(pages_->Deflate(kBlock + 3, share));
  EXPECT_EQ(AdviceOf(ram(), kBlock), "nh");
  ASSERT_TRUE(pages_->Deflate(kBlock + 4, share));
  EXPECT_EQ(AdviceOf(ram(), kBlock), "hg");
  EXPECT_EQ(share.calls, 7u);
}

TEST_F(HugeBalloonTest, AResetMakesAllOfItHugeAgain) {
  Inflate(kBlock, 1);
  Inflate(5 * kBlock, 1);
  pages_->Clear();
  EXPECT_EQ(AdviceOf(ram(), kBlock), "hg");
  EXPECT_EQ(AdviceOf(ram(), 5 * kBlock), "hg");
}

}  // namespace
}  // namespace ferrite
