#include "migration/sending/untouched.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/page_map.h"
#include "memory/memory_region.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 1024;
constexpr uint64_t kBytes = kPages * kPageBytes;

class UntouchedTest : public testing::TestWithParam<MemoryBacking> {};

INSTANTIATE_TEST_SUITE_P(Backings, UntouchedTest, testing::Values(MemoryBacking::kMemfd, MemoryBacking::kAnonymous),
                         [](const auto& info) { return std::string(MemoryBackingName(info.param)); });

TEST_P(UntouchedTest, ArePagesThatNobodyWrote) {
  const auto region = *MemoryRegion::Create("ram-test", GuestAddress(0), kBytes, GetParam());
  ASSERT_TRUE(region->SetThp(false).ok());
  for (const uint64_t page : {uint64_t{0}, uint64_t{7}, kPages - 1}) {
    region->guest_mapping()[page * kPageBytes] = 1;
  }
  PageBitmap untouched(kPages);
  ASSERT_TRUE(AddUntouchedPages(*region, OwnPageMap, untouched).ok());
  EXPECT_EQ(untouched.Count(), kPages - 3);
  for (const uint64_t page : {uint64_t{0}, uint64_t{7}, kPages - 1}) {
    EXPECT_FALSE(untouched.Test(page)) << page;
  }
}

TEST_P(UntouchedTest, AreAllOfARegionThatIsNew) {
  const auto region = *MemoryRegion::Create("ram-test", GuestAddress(0), kBytes, GetParam());
  PageBitmap untouched(kPages);
  ASSERT_TRUE(AddUntouchedPages(*region, OwnPageMap, untouched).ok());
  EXPECT_EQ(untouched.Count(), kPages);
}

TEST_P(UntouchedTest, AskForThePageMapWhereThereIsNoFile) {
  const auto region = *MemoryRegion::Create("ram-test", GuestAddress(0), kBytes, GetParam());
  const PageMapOpener none = [] { return absl::PermissionDeniedError("no map here"); };
  PageBitmap untouched(kPages);
  EXPECT_EQ(AddUntouchedPages(*region, none, untouched),
            GetParam() == MemoryBacking::kAnonymous ? absl::PermissionDeniedError("no map here") : absl::OkStatus());
}

// What lies before and behind it in the file is not its own.
TEST(UntouchedInAFileTest, OfARegionInTheMiddleOfAFileAreItsOwn) {
  const Fd fd(memfd_create("owner", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), 3 * kBytes), 0);
  const Mapping owner = *Mapping::Create("owner", 3 * kBytes, MAP_SHARED, fd.get());
  for (const uint64_t page : {uint64_t{5}, kPages + 7, kPages + 8, 2 * kPages + 9}) {
    owner.data()[page * kPageBytes] = 1;
  }
  const auto region = *MemoryRegion::Adopt(
      "ram-test", GuestAddress(0),
      {.mapping = owner.span().subspan(kBytes, kBytes), .fd = fd.get(), .offset = kBytes, .page_bytes = kPageBytes});
  PageBitmap untouched(kPages);
  ASSERT_TRUE(AddUntouchedPages(*region, OwnPageMap, untouched).ok());
  EXPECT_EQ(untouched.Count(), kPages - 2);
  EXPECT_FALSE(untouched.Test(7));
  EXPECT_FALSE(untouched.Test(8));
}

}  // namespace
}  // namespace ferrite::migration
