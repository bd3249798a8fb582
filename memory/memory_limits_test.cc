#include "memory/memory_limits.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

TEST(MemoryLimitsTest, HugePagesThatTheGroupDoesNotAllowAreRefusedByName) {
  char name[] = "/tmp/ferrite-limits-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string root = name;
  std::ofstream(root + "/cgroup") << "0::/\n";
  std::ofstream(root + "/mountinfo") << "35 22 0:30 / " << root << " rw - cgroup2 cgroup2 rw\n";
  EXPECT_TRUE(CheckHugePageGroups(32 << 20, MemoryBacking::kHugetlb2M, root).ok());
  std::ofstream(root + "/hugetlb.2MB.max") << "33554432\n";
  EXPECT_TRUE(CheckHugePageGroups(32 << 20, MemoryBacking::kHugetlb2M, root).ok());
  std::ofstream(root + "/hugetlb.2MB.rsvd.max") << "33554432\n";
  std::ofstream(root + "/hugetlb.2MB.rsvd.current") << "2097152\n";
  const absl::Status status = CheckHugePageGroups(32 << 20, MemoryBacking::kHugetlb2M, root);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(
      absl::StrContains(status.message(), absl::StrCat("16 huge pages of 2 MiB are needed, but the limit of this "
                                                       "process's control group leaves 15 (",
                                                       root, "/hugetlb.2MB.rsvd.max is 33554432, 2097152 bytes")))
      << status;
  EXPECT_TRUE(CheckHugePageGroups(32 << 20, MemoryBacking::kMemfd, root).ok());
  std::filesystem::remove_all(root);
}

TEST(MemoryLimitsTest, WhatIsLeftInTheGroupCountsAndNotItsLimit) {
  char name[] = "/tmp/ferrite-limits-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string root = name;
  std::ofstream(root + "/cgroup") << "0::/\n";
  std::ofstream(root + "/mountinfo") << "35 22 0:30 / " << root << " rw - cgroup2 cgroup2 rw\n";
  EXPECT_TRUE(CheckMemoryGroups(64 << 20, MemoryBacking::kMemfd, 0, root).ok());
  std::ofstream(root + "/memory.max") << (100 << 20) << "\n";
  EXPECT_TRUE(CheckMemoryGroups(64 << 20, MemoryBacking::kMemfd, 0, root).ok());
  std::ofstream(root + "/memory.current") << (40 << 20) << "\n";
  const absl::Status status = CheckMemoryGroups(64 << 20, MemoryBacking::kMemfd, 0, root);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StrContains(status.message(), "left to this monitor's control group: 60 of 100 MiB (")) << status;
  EXPECT_TRUE(CheckMemoryGroups(64 << 20, MemoryBacking::kMemfd, 8 << 20, root).ok());
  EXPECT_TRUE(CheckMemoryGroups(64 << 20, MemoryBacking::kHugetlb2M, 0, root).ok());
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace ferrite
