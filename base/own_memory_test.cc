#include "base/own_memory.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

TEST(OwnMemoryWordsTest, SayWhatABadAddressIsAndWhichLimitLeavesNothing) {
  char name[] = "/tmp/ferrite-own-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string root = name;
  const std::string plain = "; a page of the guest's memory cannot be had on this host";
  EXPECT_EQ(OwnMemoryWords(EIO, root), "");
  EXPECT_EQ(OwnMemoryWords(EFAULT, root), plain);
  std::ofstream(root + "/cgroup") << "0::/\n";
  std::ofstream(root + "/mountinfo") << "35 22 0:30 / " << root << " rw - cgroup2 cgroup2 rw\n";
  std::ofstream(root + "/memory.max") << "1000000\n";
  std::ofstream(root + "/hugetlb.2MB.max") << "4194304\n";
  EXPECT_EQ(OwnMemoryWords(EFAULT, root), plain) << "there is something left";
  std::ofstream(root + "/hugetlb.2MB.current") << "4194304\n";
  EXPECT_EQ(OwnMemoryWords(EFAULT, root),
            absl::StrCat(plain, ", and a limit of this process's control group leaves none of 2048 KiB (", root,
                         "/hugetlb.2MB.max is 4194304)"));
  std::filesystem::remove_all(root);
}

}  // namespace
}  // namespace ferrite
