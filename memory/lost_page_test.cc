// Pages that the host lost, and the threads of ours that touch them (R9).
#include "tests/fakes/lost_page.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "memory/bus_fault.h"
#include "memory/guest_memory.h"
#include "tests/fakes/huge_page_pool.h"
#include "tests/fakes/test_place.h"

namespace ferrite {
namespace {

constexpr uint64_t kHostPages = 64;
constexpr uint64_t kLostPage = 5;

class LostPageTest : public testing::TestWithParam<MemoryBacking> {
 protected:
  void SetUp() override {
    if (const absl::Status status = PageLoser::Supported(); !status.ok()) {
      GTEST_SKIP() << status;
    }
    if (GetParam() == MemoryBacking::kHugetlb2M) {
      pool_.emplace(kHostPages + 1);  // what is broken does not come back
      if (!pool_->status().ok()) {
        GTEST_SKIP() << pool_->status();
      }
    }
    auto memory = GuestMemory::Create(kBytes, GetParam());
    ASSERT_TRUE(memory.ok()) << memory.status();
    memory_ = *std::move(memory);
    memory_->SetLostListener([this](GuestAddress page) { found_.push_back(page); });
    ASSERT_EQ(memory_->Fill(GuestAddress(0), 0x5a, kBytes).ToString(), "OK");
    ASSERT_EQ(loser_.Lose(*memory_->regions()[0], kPage.value()).ToString(), "OK");
  }

  const uint64_t kUnit = HostPageBytes(GetParam());
  const uint64_t kBytes = kHostPages * kUnit;
  const GuestAddress kPage{kLostPage * kUnit};
  std::optional<HugePagePool> pool_;
  std::unique_ptr<GuestMemory> memory_;
  PageLoser loser_;
  std::vector<GuestAddress> found_;
};

TEST_P(LostPageTest, EachAccessIsDataLossAndThePageIsListedOnce) {
  const auto value = memory_->ReadObject<uint64_t>(kPage + 16);
  EXPECT_EQ(value.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(value.status().message().find(absl::StrCat("0x", absl::Hex(kPage.value()))), absl::string_view::npos)
      << value.status();
  EXPECT_EQ(memory_->WriteObject<uint32_t>(kPage, 1).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(memory_->Fill(GuestAddress(0), 1, kBytes).code(), absl::StatusCode::kDataLoss);
  std::array<uint8_t, 3 * kPageBytes> bytes = {};
  EXPECT_EQ(memory_->Read(GuestAddress(kPage.value() - kPageBytes), bytes).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(memory_->LostPages(), std::vector<GuestAddress>{kPage});
  EXPECT_EQ(found_, std::vector<GuestAddress>{kPage});
  EXPECT_TRUE(memory_->ReadObject<uint64_t>(kPage + kUnit).ok()) << "its neighbour is good";
}

TEST_P(LostPageTest, DiscardedPageIsGoodAgain) {
  ASSERT_EQ(memory_->ReadObject<uint8_t>(kPage).status().code(), absl::StatusCode::kDataLoss);
  MemoryRegion& region = *memory_->regions()[0];
  const auto other = region.Discard(0, 2 * kUnit);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_TRUE(region.IsLost(kPage.value())) << "another page was discarded";
  const auto discarded = region.Discard(kPage.value() - kUnit, 3 * kUnit);
  ASSERT_TRUE(discarded.ok()) << discarded.status();
  EXPECT_TRUE(memory_->LostPages().empty());
  loser_.Close();
  const auto value = memory_->ReadObject<uint64_t>(kPage);
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, 0u);
  EXPECT_EQ(memory_->WriteObject<uint64_t>(kPage, 7).ToString(), "OK");
}

TEST_P(LostPageTest, SystemCallThatMetOneNamesIt) {
  const std::span<uint8_t> memory = memory_->regions()[0]->guest_mapping();
  const Fd file(memfd_create("sink", MFD_CLOEXEC));
  EXPECT_EQ(pwrite(file.get(), memory.data() + kPage.value(), kPageBytes, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_TRUE(memory_->LostPages().empty());
  EXPECT_FALSE(memory_->FindLost(memory.first(kPage.value())));
  EXPECT_TRUE(memory_->FindLost(memory.subspan(kPage.value() - 1, 3)));
  EXPECT_EQ(found_, std::vector<GuestAddress>{kPage});
}

TEST_P(LostPageTest, PageThatCannotBeHadIsNotALostOne) {
  const GuestAddress kOther{9 * kUnit};
  const std::span<uint8_t> memory = memory_->regions()[0]->guest_mapping();
  const Fd empty(memfd_create("empty", MFD_CLOEXEC));
  uint8_t* const at = memory.data() + kOther.value();
  ASSERT_EQ(mmap(at, kUnit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, empty.get(), 0), at);
  EXPECT_EQ(memory_->ReadObject<uint8_t>(kOther).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(memory_->FindLost(memory.subspan(kOther.value(), kPageBytes)));
  EXPECT_TRUE(memory_->LostPages().empty());
}

// The host's own tests leave its huge pages alone.
std::vector<MemoryBacking> EachMemory() {
  std::vector<MemoryBacking> each = {MemoryBacking::kMemfd, MemoryBacking::kAnonymous};
  if (InOuterMachine()) {
    each.push_back(MemoryBacking::kHugetlb2M);
  }
  return each;
}
INSTANTIATE_TEST_SUITE_P(Backings, LostPageTest, testing::ValuesIn(EachMemory()), [](const auto& backing) {
  return backing.param == MemoryBacking::kHugetlb2M ? "hugetlb" : std::string(MemoryBackingName(backing.param));
});

TEST(HiddenPagesTest, AreTogetherWhereTheyAreNeighboursAndNotMoreThanTheProcessCanMap) {
  constexpr uint64_t kMany = 16384;
  auto memory = GuestMemory::Create((2 * kMany + 2) * kPageBytes, MemoryBacking::kAnonymous);
  ASSERT_TRUE(memory.ok()) << memory.status();
  MemoryRegion& region = *(*memory)->regions()[0];
  const auto mappings = [] {
    std::ifstream maps("/proc/self/maps");
    return std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  };
  const auto before = mappings();
  for (uint64_t page = 0; page < kMany; ++page) {
    ASSERT_EQ(region.HideLost(page * kPageBytes).ToString(), "OK") << page;
  }
  EXPECT_LE(mappings(), before + 100) << "some are others'";
  EXPECT_EQ((*memory)->HiddenPages().size(), kMany);
  EXPECT_EQ(region.HideLost(2 * kMany * kPageBytes).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(region.IsLost(2 * kMany * kPageBytes)) << "it is as it was";
  EXPECT_TRUE((*memory)->ReadObject<uint8_t>(GuestAddress(2 * kMany * kPageBytes)).ok());
  ASSERT_TRUE(region.Discard(0, kMany * kPageBytes).ok());
  EXPECT_TRUE((*memory)->LostPages().empty());
  EXPECT_EQ(region.HideLost(2 * kMany * kPageBytes).ToString(), "OK");
}

TEST(BusFaultTest, FaultThatNobodyIsPreparedForEndsTheProcess) {
  CatchBusFaults();
  const int fd = memfd_create("short", MFD_CLOEXEC);
  auto* const behind = static_cast<volatile uint8_t*>(mmap(nullptr, kPageBytes, PROT_READ, MAP_SHARED, fd, 0));
  ASSERT_NE(behind, MAP_FAILED);
  const std::optional<uintptr_t> hit = TouchMemory([&] { (void)behind[8]; });
  EXPECT_EQ(hit, reinterpret_cast<uintptr_t>(behind) + 8);
  EXPECT_EQ(TouchMemory([] {}), std::nullopt);
  EXPECT_DEATH((void)behind[8], "");
  EXPECT_DEATH((void)raise(SIGBUS), "");
  close(fd);
}

TEST(BusFaultTest, PageThatTheKernelTellsOfIsAHint) {
  const auto there = ListenForLostPages();
  ASSERT_TRUE(there.ok()) << there.status();
  pollfd readable = {.fd = there->get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&readable, 1, 0), 0);
  int object = 0;
  TellOfLostPage(&object);
  EXPECT_EQ(poll(&readable, 1, 0), 1);
  eventfd_t count = 0;
  EXPECT_EQ(eventfd_read(there->get(), &count), 0);
  EXPECT_EQ(TakeLostPageHint(), reinterpret_cast<uintptr_t>(&object));
  EXPECT_EQ(TakeLostPageHint(), std::nullopt);
  for (int i = 0; i < 1000; ++i) {
    TellOfLostPage(&object);
  }
  int taken = 0;
  while (TakeLostPageHint().has_value()) {
    ++taken;
  }
  EXPECT_GT(taken, 0) << "a few of them are as good as all";
  EXPECT_LT(taken, 1000) << "bounded";
}

}  // namespace
}  // namespace ferrite
