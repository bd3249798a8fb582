// The balloon on real huge pages: one goes back to the host when all of its pages are in the balloon.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>

#include "devices/balloon/balloon.h"
#include "devices/balloon/balloon_pages.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/virtio_harness.h"

namespace ferrite {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kFrames = kHugePage / kPageBytes;
constexpr uint64_t kHugePages = 4;
class BalloonHugetlbTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pool_.status().ok()) {
      GTEST_SKIP() << pool_.status();
    }
    auto memory = GuestMemory::Create(kHugePages * kHugePage, MemoryBacking::kHugetlb2M);
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    pages_ = std::make_unique<BalloonPages>(*memory_);
    ASSERT_TRUE(memory_->Fill(GuestAddress(0), 1, memory_->total_bytes()).ok());
  }

  uint64_t Resident() { return *memory_->regions()[0]->ResidentBytes(); }
  void Inflate(uint64_t first, uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      EXPECT_TRUE(pages_->Inflate(first + i));
    }
  }

  uint64_t Reclaim() {
    BalloonPages::Share share = {.pages = UINT64_MAX, .calls = UINT64_MAX};
    return pages_->Reclaim(share);
  }

  HugePagePool pool_{kHugePages};
  std::unique_ptr<GuestMemory> memory_;
  std::unique_ptr<BalloonPages> pages_;
};

TEST_F(BalloonHugetlbTest, HostPageGoesBackOnceAllOfItIsInTheBalloon) {
  Inflate(kFrames, kFrames - 1);
  EXPECT_EQ(Reclaim(), 0u);
  EXPECT_FALSE(pages_->pending());
  EXPECT_EQ(Resident(), kHugePages * kHugePage);
  Inflate(2 * kFrames - 1, 1);
  EXPECT_EQ(Reclaim(), kHugePage);
  EXPECT_EQ(Resident(), (kHugePages - 1) * kHugePage);
  EXPECT_EQ(memory_->regions()[0]->guest_mapping()[0], 1);
}

TEST_F(BalloonHugetlbTest, RunIsCutToWholeHostPages) {
  Inflate(kFrames / 2, 3 * kFrames);  // half, two whole, half
  EXPECT_EQ(Reclaim(), 2 * kHugePage);
  EXPECT_EQ(Resident(), 2 * kHugePage);
}

TEST_F(BalloonHugetlbTest, PageThatLeftTheBalloonKeepsItsHostPage) {
  Inflate(0, kFrames - 1);
  BalloonPages::Share share{.pages = kFrames, .calls = 1};
  EXPECT_TRUE(pages_->Deflate(3, share));
  Inflate(kFrames - 1, 1);
  EXPECT_EQ(Reclaim(), 0u);
  EXPECT_EQ(Resident(), kHugePages * kHugePage);
}

// A report of more than one pass may give back, from the middle of a host page: none of those inside is cut in two.
TEST(BalloonHugetlbReportTest, SharesEndWhereHostPagesDo) {
  constexpr uint64_t kReported = 35;
  constexpr uint64_t kHostPages = 2 * (kReported + 2);
  HugePagePool pool(kHostPages);
  if (!pool.status().ok()) {
    GTEST_SKIP() << pool.status();
  }
  VirtioHarness harness(kHostPages * kHugePage, nullptr, MemoryBacking::kHugetlb2M);
  auto owned = std::make_unique<Balloon>(harness.memory(), 0);
  Balloon& balloon = *owned;
  harness.Attach(std::move(owned));
  harness.Start(harness.driver().OfferedFeatures());
  const GuestAddress start(kHostPages / 2 * kHugePage + kPageBytes);
  harness.queue(3).Chain().WritableAt(start, (kReported + 1) * kHugePage).Submit();
  {
    absl::MutexLock lock(&balloon.mutex());
    ASSERT_TRUE(balloon.ProcessQueue(3).ok());
  }
  EXPECT_FALSE(harness.queue(3).HasUsed());
  harness.Kick(3);
  EXPECT_TRUE(harness.queue(3).HasUsed());
  EXPECT_EQ(balloon.reclaimed(), kReported * kHugePage);
}

}  // namespace
}  // namespace ferrite
