#include "base/control_group.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kHuge = uint64_t{2} << 20;

// Files as a kernel shows them.
class ControlGroupTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-groups-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(root_ + "/" + file).parent_path());
    std::ofstream(root_ + "/" + file) << text << "\n";
  }
  // The process is in `group`, and the part of the hierarchy from `from` on is mounted at root_/groups.
  void Version2(const std::string& group, const std::string& from = "/") {
    Write("cgroup", absl::StrCat("4:memory:/elsewhere\n0::", group));
    Write("mountinfo", absl::StrCat("22 1 8:1 / / rw - ext4 /dev/vda rw\n35 22 0:30 ", from, " ", root_,
                                    "/groups rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"));
  }
  void Version1(const std::string& group) {
    Write("cgroup", absl::StrCat("9:hugetlb,misc:", group, "\n4:memory:", group, "\n0::/"));
    Write("mountinfo", absl::StrCat("36 35 0:31 / ", root_, "/groups rw - cgroup cgroup rw,hugetlb,misc\n37 35 0:32 / ",
                                    root_, "/memory rw - cgroup cgroup rw,memory"));
  }
  std::string Path(const std::string& file) const { return absl::StrCat(root_, "/", file); }

  std::string root_;
};

TEST_F(ControlGroupTest, WithoutGroupsOrLimitsThereIsNone) {
  EXPECT_FALSE(HugePageGroupLimit(kHuge, root_).has_value());
  EXPECT_FALSE(MemoryGroupLimit(0, root_).has_value());
  Version2("/a");
  Write("groups/a/hugetlb.2MB.max", "max");
  Write("groups/a/memory.max", "max");
  EXPECT_FALSE(HugePageGroupLimit(kHuge, root_).has_value());
  EXPECT_FALSE(MemoryGroupLimit(0, root_).has_value());
}

TEST_F(ControlGroupTest, HugePagesOfVersion2) {
  Version2("/a/b");
  Write("groups/a/b/hugetlb.2MB.max", "8388608");
  Write("groups/a/b/hugetlb.2MB.current", "2097152");
  Write("groups/a/b/hugetlb.1GB.max", "0");
  auto limit = HugePageGroupLimit(kHuge, root_);
  ASSERT_TRUE(limit.has_value());
  EXPECT_EQ(limit->file, Path("groups/a/b/hugetlb.2MB.max"));
  EXPECT_EQ(limit->limit, 4 * kHuge);
  EXPECT_EQ(limit->left(), 3 * kHuge);
  // Reservations have a limit of their own.
  Write("groups/a/b/hugetlb.2MB.rsvd.max", "4194304");
  limit = HugePageGroupLimit(kHuge, root_);
  EXPECT_EQ(limit->file, Path("groups/a/b/hugetlb.2MB.rsvd.max"));
  EXPECT_EQ(limit->left(), 2 * kHuge);
  // A group above limits, too, and may be exceeded already.
  Write("groups/a/hugetlb.2MB.max", "0");
  Write("groups/a/hugetlb.2MB.current", "2097152");
  limit = HugePageGroupLimit(kHuge, root_);
  EXPECT_EQ(limit->file, Path("groups/a/hugetlb.2MB.max"));
  EXPECT_EQ(limit->left(), 0u);
  EXPECT_EQ(HugePageGroupLimit(uint64_t{1} << 30, root_)->file, Path("groups/a/b/hugetlb.1GB.max"));
}

TEST_F(ControlGroupTest, HugePagesOfVersion1) {
  Version1("/guests");
  Write("groups/hugetlb.2MB.limit_in_bytes", "9223372036852678656");  // none
  EXPECT_FALSE(HugePageGroupLimit(kHuge, root_).has_value());
  Write("groups/guests/hugetlb.2MB.limit_in_bytes", "4194304");
  Write("groups/guests/hugetlb.2MB.usage_in_bytes", "2097152");
  const auto limit = HugePageGroupLimit(kHuge, root_);
  ASSERT_TRUE(limit.has_value());
  EXPECT_EQ(limit->file, Path("groups/guests/hugetlb.2MB.limit_in_bytes"));
  EXPECT_EQ(limit->left(), kHuge);
}

// A container sees the hierarchy from its own group on.
TEST_F(ControlGroupTest, MountThatBeginsBelowTheTop) {
  Version2("/docker/abc/inner", "/docker/abc");
  Write("groups/memory.max", "1000");
  Write("groups/inner/memory.max", "2000");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->file, Path("groups/memory.max"));
  Version2("/../elsewhere");
  EXPECT_FALSE(MemoryGroupLimit(0, root_).has_value());
}

TEST_F(ControlGroupTest, AMountOfANamesakeIsNotThatOfTheGroup) {
  // "/foo" is no directory above "/foobar".
  Version2("/foobar", "/foo");
  Write("groups/memory.max", "1000");
  Write("groups/bar/memory.max", "500");
  Write("groupsbar/memory.max", "200");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->file, Path("groups/memory.max"));
  Version2("/foo", "/foo");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->file, Path("groups/memory.max"));
}

TEST_F(ControlGroupTest, NamesAreReadAsTheKernelWritesThem) {
  const std::string name = "a b\tc\nd\\e\\0";
  Write("cgroup", "0::/");
  Write("mountinfo", absl::StrCat("35 22 0:30 / ", root_, "/a\\040b\\011c\\012d\\134e\\1340 rw - cgroup2 cgroup2 rw"));
  Write(name + "/memory.max", "1000");
  ASSERT_TRUE(MemoryGroupLimit(0, root_).has_value());
  EXPECT_EQ(MemoryGroupLimit(0, root_)->file, Path(name + "/memory.max"));
}

TEST_F(ControlGroupTest, OfGroupsOfMemoryTheOneThatLeavesLeastCounts) {
  Version2("/a");
  Write("groups/a/memory.max", "1000");
  Write("groups/a/memory.current", "100");
  Write("groups/memory.max", "2000");
  Write("groups/memory.current", "1500");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->file, Path("groups/memory.max"));
  EXPECT_EQ(MemoryGroupLimit(0, root_)->left(), 500u);
}

TEST_F(ControlGroupTest, CachedFilesAndUsedSwapAreNotWhatIsLeft) {
  Version2("/a");
  Write("groups/a/memory.max", "1000");
  Write("groups/a/memory.current", "600");
  Write("groups/a/memory.swap.current", "50");
  Write("groups/a/memory.stat", "anon 200\nshmem 100\ninactive_file 250\nactive_file 50");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->used, 300u);
  EXPECT_EQ(MemoryGroupLimit(500, root_)->left(), 1150u);
  Version1("/a");
  Write("memory/a/memory.limit_in_bytes", "1000");
  Write("memory/a/memory.usage_in_bytes", "600");
  Write("memory/a/memory.memsw.limit_in_bytes", "1200");
  Write("memory/a/memory.memsw.usage_in_bytes", "650");
  Write("memory/a/memory.stat", "inactive_file 7\nactive_file 8\ntotal_inactive_file 70\ntotal_active_file 30");
  EXPECT_EQ(MemoryGroupLimit(500, root_)->used, 550u);
  EXPECT_EQ(MemoryGroupLimit(500, root_)->left(), 650u);
}

TEST_F(ControlGroupTest, SwapCountsAsFarAsTheGroupMayUseIt) {
  Version2("/a");
  Write("groups/a/memory.max", "1000");
  Write("groups/a/memory.current", "600");
  EXPECT_EQ(MemoryGroupLimit(0, root_)->limit, 1000u);
  EXPECT_EQ(MemoryGroupLimit(0, root_)->used, 600u);
  EXPECT_EQ(MemoryGroupLimit(500, root_)->limit, 1500u);
  Write("groups/a/memory.swap.max", "100");
  EXPECT_EQ(MemoryGroupLimit(500, root_)->limit, 1100u);
  Version1("/a");
  Write("memory/a/memory.limit_in_bytes", "1000");
  EXPECT_EQ(MemoryGroupLimit(500, root_)->limit, 1500u);
  Write("memory/a/memory.memsw.limit_in_bytes", "1200");
  EXPECT_EQ(MemoryGroupLimit(500, root_)->limit, 1200u);
}

}  // namespace
}  // namespace ferrite
