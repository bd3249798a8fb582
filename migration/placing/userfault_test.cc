#include "migration/placing/userfault.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>

#include "absl/status/status.h"
#include "base/fd.h"
#include "base/open_userfault.h"

namespace ferrite::migration {
namespace {

// None that any kernel has.
constexpr uint64_t kUnknownFeature = uint64_t{1} << 62;

class UserfaultTest : public testing::Test {
 protected:
  const UserfaultOpener counted_ = [this] {
    ++opened_;
    return OpenUserfault();
  };
  int opened_ = 0;
};

TEST_F(UserfaultTest, OneDescriptorIsEnoughForAKernelThatHasAll) {
  const auto userfault = Userfault::Create(counted_, /*wanted=*/0);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ(opened_, 1);
}

TEST_F(UserfaultTest, WhatTheKernelLacksIsNotAskedFor) {
  const auto all = Userfault::Create(OpenUserfault);
  ASSERT_TRUE(all.ok()) << all.status();
  const auto userfault = Userfault::Create(counted_, Userfault::WantedFeatures() | kUnknownFeature);
  ASSERT_TRUE(userfault.ok()) << userfault.status();
  EXPECT_EQ(opened_, 2);
  const UserfaultFeatures& features = (*userfault)->features();
  EXPECT_EQ(features.missing_shmem, (*all)->features().missing_shmem);
  EXPECT_EQ(features.missing_hugetlb, (*all)->features().missing_hugetlb);
  EXPECT_EQ(features.minor_shmem, (*all)->features().minor_shmem);
  EXPECT_EQ(features.minor_hugetlb, (*all)->features().minor_hugetlb);
  EXPECT_EQ(features.poison, (*all)->features().poison);
  EXPECT_EQ(features.thread_id, (*all)->features().thread_id);
  EXPECT_TRUE(features.missing_shmem) << "Linux 4.11";
}

TEST_F(UserfaultTest, OpenersErrorIsTheResult) {
  const absl::Status none = absl::ResourceExhaustedError("userfaultfd: there is none today");
  EXPECT_EQ(Userfault::Create([&]() -> absl::StatusOr<Fd> { return none; }).status(), none);
}

TEST_F(UserfaultTest, DescriptorThatSomebodyHasUsedUpIsRefused) {
  const auto used = Userfault::Create(OpenUserfault);
  ASSERT_TRUE(used.ok()) << used.status();
  const auto userfault = Userfault::Create([&]() -> absl::StatusOr<Fd> { return Fd(dup((*used)->fd())); });
  EXPECT_TRUE(absl::IsInvalidArgument(userfault.status())) << userfault.status();
}

}  // namespace
}  // namespace ferrite::migration
