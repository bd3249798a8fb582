#include "memory/memory_region.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/mapping.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::unique_ptr<MemoryRegion> MakeRegion(uint64_t bytes, MemoryBacking backing) {
  auto region = MemoryRegion::Create("ram-test", GuestAddress(0), bytes, backing);
  EXPECT_TRUE(region.ok()) << region.status();
  return region.ok() ? *std::move(region) : nullptr;
}

// The line of /proc/self/smaps that starts with `field`, for the mapping at `address`.
std::string SmapsField(const void* address, const std::string& field) {
  std::ifstream smaps("/proc/self/smaps");
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long start = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2) {
      here = start <= wanted && wanted < end;
    } else if (here && absl::StartsWith(line, field)) {
      return line;
    }
  }
  return "";
}

TEST(MemoryBackingTest, NamesAreTheOptionsAndBack) {
  for (const MemoryBacking backing :
       {MemoryBacking::kMemfd, MemoryBacking::kAnonymous, MemoryBacking::kHugetlb2M, MemoryBacking::kHugetlb1G}) {
    const auto parsed = ParseMemoryBacking(MemoryBackingName(backing));
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(*parsed, backing);
  }
  EXPECT_EQ(HostPageBytes(MemoryBacking::kMemfd), 4096u);
  EXPECT_EQ(HostPageBytes(MemoryBacking::kHugetlb2M), 2 * kMiB);
  const auto unknown = ParseMemoryBacking("hugetlb");
  EXPECT_EQ(unknown.status().message(),
            "memory backing 'hugetlb' is unknown; there are memfd, anon, hugetlb-2M, hugetlb-1G");
}

class RegionOfSmallPagesTest : public testing::TestWithParam<MemoryBacking> {};

INSTANTIATE_TEST_SUITE_P(Backings, RegionOfSmallPagesTest,
                         testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

TEST_P(RegionOfSmallPagesTest, UsesNoMemoryUntilTouched) {
  const auto region = MakeRegion(64 * kMiB, GetParam());
  EXPECT_EQ(region->bytes(), 64 * kMiB);
  EXPECT_EQ(region->pages(), 16384u);
  EXPECT_EQ(region->own_writes().pages(), 16384u);
  ASSERT_EQ(*region->ResidentBytes(), 0u);
  ASSERT_TRUE(region->SetThp(false).ok());
  region->guest_mapping()[5 * kPageBytes] = 1;
  region->guest_mapping()[63 * kMiB] = 1;
  EXPECT_EQ(*region->ResidentBytes(), 2 * kPageBytes);
}

TEST_P(RegionOfSmallPagesTest, IsAlignedForTransparentHugePages) {
  const auto region = MakeRegion(kPageBytes * 3, GetParam());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->guest_mapping().data()) % (2 * kMiB), 0u);
}

TEST_P(RegionOfSmallPagesTest, DiscardGivesMemoryBackAndReadsAsZero) {
  const auto region = MakeRegion(8 * kMiB, GetParam());
  ASSERT_TRUE(region->SetThp(false).ok());
  std::memset(region->guest_mapping().data(), 0x5a, region->bytes());
  ASSERT_EQ(*region->ResidentBytes(), 8 * kMiB);
  const auto given_back = region->Discard(kMiB, 4 * kMiB);
  ASSERT_TRUE(given_back.ok()) << given_back.status();
  EXPECT_EQ(*given_back, 4 * kMiB);
  EXPECT_EQ(*region->ResidentBytes(), 4 * kMiB);
  EXPECT_EQ(region->own_writes().FindSet(0), 256u);
  EXPECT_EQ(region->own_writes().Count(), 1024u);
  EXPECT_EQ(region->guest_mapping()[kMiB - 1], 0x5a);
  EXPECT_EQ(region->guest_mapping()[kMiB], 0);
  EXPECT_EQ(region->guest_mapping()[5 * kMiB - 1], 0);
  EXPECT_EQ(region->guest_mapping()[5 * kMiB], 0x5a);
}

TEST_P(RegionOfSmallPagesTest, DiscardTakesWholeHostPagesOnly) {
  const auto region = MakeRegion(16 * kPageBytes, GetParam());
  std::memset(region->guest_mapping().data(), 0x5a, region->bytes());
  EXPECT_EQ(*region->Discard(1, 2 * kPageBytes - 2), 0u);
  EXPECT_EQ(*region->Discard(100, 100), 0u);
  EXPECT_EQ(*region->Discard(0, 0), 0u);
  EXPECT_EQ(region->own_writes().Count(), 0u);
  EXPECT_EQ(*region->Discard(1, 3 * kPageBytes), 2 * kPageBytes);
  EXPECT_EQ(region->guest_mapping()[kPageBytes - 1], 0x5a);
  EXPECT_EQ(region->guest_mapping()[kPageBytes], 0);
  EXPECT_EQ(region->guest_mapping()[3 * kPageBytes - 1], 0);
  EXPECT_EQ(region->guest_mapping()[3 * kPageBytes], 0x5a);
  EXPECT_EQ(region->own_writes().Count(), 2u);
}

TEST_P(RegionOfSmallPagesTest, MarkWrittenCountsEveryPageTouched) {
  const auto region = MakeRegion(16 * kPageBytes, GetParam());
  region->MarkWritten(3 * kPageBytes, 0);
  EXPECT_EQ(region->own_writes().Count(), 0u);
  region->MarkWritten(2 * kPageBytes - 1, 2);
  region->MarkWritten(16 * kPageBytes - 1, 1);
  EXPECT_EQ(region->own_writes().Count(), 3u);
  EXPECT_TRUE(region->own_writes().Test(1));
  EXPECT_TRUE(region->own_writes().Test(2));
  EXPECT_TRUE(region->own_writes().Test(15));
}

TEST_P(RegionOfSmallPagesTest, ThpAdviceReachesTheKernel) {
  const auto region = MakeRegion(8 * kMiB, GetParam());
  ASSERT_TRUE(region->SetThp(true).ok());
  EXPECT_TRUE(absl::StrContains(SmapsField(region->guest_mapping().data(), "VmFlags"), " hg"));
  ASSERT_TRUE(region->SetThp(false).ok());
  EXPECT_TRUE(absl::StrContains(SmapsField(region->guest_mapping().data(), "VmFlags"), " nh"));
}

TEST_P(RegionOfSmallPagesTest, IsKeptOutOfCoreDumps) {
  const auto region = MakeRegion(8 * kMiB, GetParam());
  EXPECT_TRUE(absl::StrContains(SmapsField(region->guest_mapping().data(), "VmFlags"), " dd"));
}

TEST_P(RegionOfSmallPagesTest, RefusesSizesAndAddressesThatAreNoMultiplesOfAPage) {
  for (const auto& [base, bytes] :
       {std::tuple<uint64_t, uint64_t>{0, 0}, {0, 4097}, {1, 4096}, {~uint64_t{4095}, 8192}, {0, uint64_t{1} << 63}}) {
    const auto region = MemoryRegion::Create("ram-test", GuestAddress(base), bytes, GetParam());
    EXPECT_TRUE(absl::IsInvalidArgument(region.status())) << base << " " << bytes << ": " << region.status();
  }
}

TEST_P(RegionOfSmallPagesTest, RefusesMoreThanTheAddressSpaceHolds) {
  const auto region = MemoryRegion::Create("ram-test", GuestAddress(0), uint64_t{1} << 60, GetParam());
  ASSERT_FALSE(region.ok());
  EXPECT_TRUE(absl::StrContains(region.status().message(), "ram-test")) << region.status();
}

// What is written to the file is what the guest has.
TEST(MemfdRegionTest, IsMappedOnce) {
  const auto region = MakeRegion(4 * kMiB, MemoryBacking::kMemfd);
  EXPECT_TRUE(region->alias_mapping().empty());
  const uint8_t byte = 7;
  ASSERT_EQ(pwrite(region->fd(), &byte, 1, kMiB), 1);
  EXPECT_EQ(region->guest_mapping()[kMiB], 7);
}

TEST(MemfdRegionTest, SizeIsSealed) {
  const auto region = MakeRegion(4 * kMiB, MemoryBacking::kMemfd);
  EXPECT_NE(ftruncate(region->fd(), 0), 0);
  EXPECT_NE(ftruncate(region->fd(), 8 * kMiB), 0);
  EXPECT_EQ(fcntl(region->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(MemfdRegionTest, DiscardLeavesAHoleInTheFile) {
  const auto region = MakeRegion(kMiB, MemoryBacking::kMemfd);
  std::memset(region->guest_mapping().data(), 1, region->bytes());
  ASSERT_TRUE(region->Discard(0, 4 * kPageBytes).ok());
  EXPECT_EQ(lseek(region->fd(), 0, SEEK_HOLE), 0);
  EXPECT_EQ(lseek(region->fd(), 0, SEEK_DATA), static_cast<off_t>(4 * kPageBytes));
}

TEST(AnonymousRegionTest, HasHugePagesWhereTheyAreAskedForAndTheHostHasThem) {
  const auto region = MakeRegion(8 * kMiB, MemoryBacking::kAnonymous);
  EXPECT_FALSE(region->thp());
  EXPECT_EQ(reinterpret_cast<uint64_t>(region->guest_mapping().data()) % (2 * kMiB), 0u) << "else it cannot have any";
  ASSERT_TRUE(region->SetThp(false).ok());
  region->guest_mapping()[0] = 1;
  EXPECT_EQ(*region->HugeBytes(), 0u);
  ASSERT_TRUE(region->SetThp(true).ok());
  region->guest_mapping()[2 * kMiB] = 1;
  // A host may have none left; and the kernel may make the first block one by itself.
  EXPECT_EQ(*region->HugeBytes() >= 2 * kMiB, *region->ResidentBytes() >= 2 * kMiB);
}

TEST(AnonymousRegionTest, IsMappedOnce) {
  const auto region = MakeRegion(kMiB, MemoryBacking::kAnonymous);
  EXPECT_EQ(region->fd(), -1);
  EXPECT_TRUE(region->alias_mapping().empty());
}

TEST(HugetlbRegionTest, RefusesSizesThatAreNoMultiplesOfAHugePage) {
  const auto region = MemoryRegion::Create("ram-test", GuestAddress(0), kMiB, MemoryBacking::kHugetlb2M);
  EXPECT_EQ(region.status().message(),
            "memory ram-test: size 1048576 and address 0x0 must be multiples of 2097152 bytes for hugetlb-2M, and not "
            "empty");
}

// However many there are free, nobody has this many.
TEST(HugetlbRegionTest, TooFewHugePagesIsAnErrorAtOnceThatSaysHowManyAndHowToGetThem) {
  const auto region = MemoryRegion::Create("ram-test", GuestAddress(0), uint64_t{1} << 40, MemoryBacking::kHugetlb2M);
  ASSERT_FALSE(region.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(region.status())) << region.status();
  EXPECT_TRUE(absl::StrContains(region.status().message(), "needs 524288 huge pages of 2 MiB, ")) << region.status();
  EXPECT_TRUE(absl::StrContains(region.status().message(),
                                " are free; reserve more by writing their total number to "
                                "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"))
      << region.status();
}

TEST(HugetlbRegionTest, OneGigabytePagesOrAReasonWhyNot) {
  const auto region = MemoryRegion::Create("ram-test", GuestAddress(0), uint64_t{1} << 42, MemoryBacking::kHugetlb1G);
  ASSERT_FALSE(region.ok());
  EXPECT_TRUE(absl::StrContains(region.status().message(), "needs 4096 huge pages of 1024 MiB") ||
              absl::StrContains(region.status().message(), "this host has no huge pages of 1024 MiB"))
      << region.status();
}

// Memory of another owner: a file in which two regions lie, one behind the other.
class AdoptedRegionTest : public testing::Test {
 protected:
  void SetUp() override {
    fd_ = Fd(memfd_create("owner", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(fd_.get(), 4 * kMiB), 0);
    mapping_ = *Mapping::Create("owner", 4 * kMiB, MAP_SHARED, fd_.get());
  }

  MemoryRegion::Adopted Half(uint64_t offset) {
    return {.mapping = mapping_.span().subspan(offset, 2 * kMiB),
            .fd = fd_.get(),
            .offset = offset,
            .page_bytes = kPageBytes};
  }

  Fd fd_;
  Mapping mapping_;
};

TEST_F(AdoptedRegionTest, IsTheOwnersMemory) {
  const auto region = MemoryRegion::Adopt("ram-high", GuestAddress(4096 * kMiB), Half(2 * kMiB));
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ((*region)->guest_mapping().data(), mapping_.data() + 2 * kMiB) << "what KVM was given";
  EXPECT_EQ((*region)->bytes(), 2 * kMiB);
  EXPECT_EQ((*region)->backing(), MemoryBacking::kMemfd);
  const uint8_t byte = 7;
  ASSERT_EQ(pwrite((*region)->fd(), &byte, 1, static_cast<off_t>((*region)->file_offset() + 5)), 1);
  EXPECT_EQ(mapping_.data()[2 * kMiB + 5], 7);
  EXPECT_EQ(mapping_.data()[5], 0);
}

TEST_F(AdoptedRegionTest, GivesBackItsOwnPartOfTheFileAlone) {
  std::memset(mapping_.data(), 1, 4 * kMiB);
  const auto low = MemoryRegion::Adopt("ram-low", GuestAddress(0), Half(0));
  const auto high = MemoryRegion::Adopt("ram-high", GuestAddress(4096 * kMiB), Half(2 * kMiB));
  ASSERT_TRUE(low.ok() && high.ok());
  EXPECT_EQ(*(*high)->Discard(kPageBytes, 2 * kPageBytes), 2 * kPageBytes);
  // Before a page of the hole is made by looking at it.
  EXPECT_EQ(*(*low)->ResidentBytes(), 2 * kMiB);
  EXPECT_EQ(*(*high)->ResidentBytes(), 2 * kMiB - 2 * kPageBytes);
  EXPECT_EQ((*high)->guest_mapping()[kPageBytes], 0);
  EXPECT_EQ((*high)->guest_mapping()[3 * kPageBytes], 1);
  EXPECT_EQ((*low)->guest_mapping()[kPageBytes], 1);
}

TEST_F(AdoptedRegionTest, LeavesTheOwnerItsMappingAndItsDescriptor) {
  ASSERT_TRUE(MemoryRegion::Adopt("ram-low", GuestAddress(0), Half(0)).ok());
  mapping_.data()[0] = 1;
  EXPECT_EQ(fcntl(fd_.get(), F_GETFD), FD_CLOEXEC);
}

TEST_F(AdoptedRegionTest, AdoptsMemoryOfNoFile) {
  auto owned = *Mapping::Create("owner", 2 * kMiB, MAP_PRIVATE | MAP_NORESERVE);
  const auto region =
      MemoryRegion::Adopt("ram-low", GuestAddress(0), {.mapping = owned.span(), .page_bytes = kPageBytes});
  ASSERT_TRUE(region.ok()) << region.status();
  EXPECT_EQ((*region)->backing(), MemoryBacking::kAnonymous);
  EXPECT_EQ((*region)->fd(), -1);
  EXPECT_TRUE((*region)->alias_mapping().empty());
  owned.data()[0] = 1;
  EXPECT_EQ(*(*region)->ResidentBytes(), kPageBytes);
  EXPECT_EQ(*(*region)->Discard(0, kPageBytes), kPageBytes);
  EXPECT_EQ(owned.data()[0], 0);
}

TEST_F(AdoptedRegionTest, RefusesWhatIsNotAsItSays) {
  const auto refusal = [&](const MemoryRegion::Adopted& memory) {
    const absl::Status status = MemoryRegion::Adopt("ram-low", GuestAddress(0), memory).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  MemoryRegion::Adopted memory = Half(0);
  memory.offset = 2 * kMiB + kPageBytes;
  EXPECT_TRUE(absl::StrContains(refusal(memory), "more than its file of 4194304 has"));
  memory = Half(0);
  memory.offset = 1;
  EXPECT_TRUE(absl::StrContains(refusal(memory), "no multiples of its pages' 4096 bytes"));
  memory = Half(0);
  memory.mapping = memory.mapping.subspan(1, kPageBytes);
  EXPECT_TRUE(absl::StrContains(refusal(memory), "no multiples of its pages' 4096 bytes"));
  memory = Half(0);
  memory.page_bytes = 2 * kMiB;
  EXPECT_TRUE(absl::StrContains(refusal(memory), "pages of 2097152 bytes, but its file has such of 4096"));
  memory = Half(0);
  memory.mapping = {};
  EXPECT_TRUE(absl::StrContains(refusal(memory), "not empty"));
  memory = Half(0);
  memory.fd = -1;
  memory.page_bytes = 2 * kMiB;
  EXPECT_TRUE(absl::StrContains(refusal(memory), "without a file it has pages of 4096 bytes"));
  const absl::Status status = MemoryRegion::Adopt("ram-low", GuestAddress(0),
                                                  {.mapping = mapping_.span(), .fd = 9999, .page_bytes = kPageBytes})
                                  .status();
  EXPECT_TRUE(absl::StrContains(status.message(), "look at the descriptor 9999: Bad file descriptor")) << status;
}

}  // namespace
}  // namespace ferrite
