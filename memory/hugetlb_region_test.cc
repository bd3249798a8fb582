// MemoryRegion on real huge pages.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "memory/memory_region.h"
#include "tests/fakes/huge_page_pool.h"

namespace ferrite {
namespace {

constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kPages = 4;

uint64_t ReadNumber(const char* path) {
  uint64_t number = 0;
  std::ifstream(path) >> number;
  return number;
}

uint64_t FreeHugePages() { return ReadNumber("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"); }

class HugetlbRegionTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!pool_.status().ok()) {
      GTEST_SKIP() << pool_.status();
    }
    auto region = MemoryRegion::Create("ram-huge", GuestAddress(0), kPages * kHugePage, MemoryBacking::kHugetlb2M);
    ASSERT_TRUE(region.ok()) << region.status();
    region_ = *std::move(region);
  }

  HugePagePool pool_{kPages};
  std::unique_ptr<MemoryRegion> region_;
};

TEST_F(HugetlbRegionTest, ReservesItsPagesAndUsesThemOnlyWhenTouched) {
  EXPECT_EQ(region_->host_page_bytes(), kHugePage);
  EXPECT_GE(ReadNumber("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"), kPages);
  EXPECT_EQ(*region_->ResidentBytes(), 0u);
  region_->guest_mapping()[kHugePage] = 1;
  EXPECT_EQ(*region_->ResidentBytes(), kHugePage);
}

// Who makes the guest use it again has to know: the kernel drops the promise with the page.
TEST_F(HugetlbRegionTest, WhatIsGivenBackIsAnybodys) {
  const auto other = [] {
    return MemoryRegion::Create("other", GuestAddress(0), kHugePage, MemoryBacking::kHugetlb2M).status();
  };
  std::fill_n(region_->guest_mapping().begin(), kPages * kHugePage, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(other())) << other();
  ASSERT_EQ(*region_->Discard(kHugePage, kHugePage), kHugePage);
  EXPECT_TRUE(other().ok()) << other();
}

TEST_F(HugetlbRegionTest, BothMappingsShowTheSameMemoryInTheWholeRange) {
  for (uint64_t page = 0; page < kPages; ++page) {
    region_->alias_mapping()[page * kHugePage + 5] = static_cast<uint8_t>(page + 1);
    EXPECT_EQ(region_->guest_mapping()[page * kHugePage + 5], page + 1);
  }
  EXPECT_EQ(*region_->ResidentBytes(), kPages * kHugePage);
}

TEST_F(HugetlbRegionTest, DiscardGivesWholeHugePagesBackToTheHost) {
  std::memset(region_->guest_mapping().data(), 0x5a, region_->bytes());
  const uint64_t free_before = FreeHugePages();
  EXPECT_EQ(*region_->Discard(kPageBytes, kHugePage), 0u) << "no whole huge page lies inside";
  const auto given_back = region_->Discard(kPageBytes, 3 * kHugePage);
  ASSERT_TRUE(given_back.ok()) << given_back.status();
  EXPECT_EQ(*given_back, 2 * kHugePage);
  EXPECT_EQ(*region_->ResidentBytes(), 2 * kHugePage);
  EXPECT_EQ(FreeHugePages(), free_before + 2);
  EXPECT_EQ(region_->own_writes().Count(), 1024u);
  EXPECT_EQ(region_->guest_mapping()[kHugePage - 1], 0x5a);
  EXPECT_EQ(region_->guest_mapping()[kHugePage], 0);
  EXPECT_EQ(region_->guest_mapping()[3 * kHugePage - 1], 0);
  EXPECT_EQ(region_->guest_mapping()[3 * kHugePage], 0x5a);
}

TEST_F(HugetlbRegionTest, ASecondRegionBeyondTheReserveIsRefusedWithTheNumbers) {
  const uint64_t free = FreeHugePages();
  const auto second =
      MemoryRegion::Create("ram-second", GuestAddress(0), (free + 1) * kHugePage, MemoryBacking::kHugetlb2M);
  ASSERT_FALSE(second.ok());
  EXPECT_TRUE(absl::StrContains(second.status().message(), "ferrite-ram-second needs ")) << second.status();
  EXPECT_TRUE(absl::StrContains(second.status().message(), " are free; reserve more")) << second.status();
}

TEST_F(HugetlbRegionTest, ThpAdviceIsNoError) {
  EXPECT_TRUE(region_->SetThp(true).ok());
  EXPECT_TRUE(region_->SetThp(false).ok());
}

TEST_F(HugetlbRegionTest, IsAdoptedWithThePagesOfItsFile) {
  const auto adopt = [&](uint64_t page_bytes) {
    return MemoryRegion::Adopt(
        "ram-low", GuestAddress(0),
        {.mapping = region_->guest_mapping(), .fd = region_->fd(), .offset = 0, .page_bytes = page_bytes});
  };
  const auto adopted = adopt(kHugePage);
  ASSERT_TRUE(adopted.ok()) << adopted.status();
  EXPECT_EQ((*adopted)->host_page_bytes(), kHugePage);
  (*adopted)->alias_mapping()[kHugePage] = 7;
  EXPECT_EQ(region_->guest_mapping()[kHugePage], 7);
  EXPECT_EQ(*(*adopted)->Discard(kHugePage, kHugePage), kHugePage);
  EXPECT_EQ(region_->guest_mapping()[kHugePage], 0);
  EXPECT_TRUE(absl::IsInvalidArgument(adopt(kPageBytes).status()));
}

}  // namespace
}  // namespace ferrite
