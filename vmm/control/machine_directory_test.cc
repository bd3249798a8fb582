#include "vmm/control/machine_directory.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/string_view.h"

namespace ferrite {
namespace {

TEST(MachineNameTest, IsChecked) {
  for (const char* good : {"a", "vm-1", "A.b_c-9", "0"}) {
    EXPECT_TRUE(CheckMachineName(good).ok()) << good;
  }
  for (const char* bad : {"", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\n"}) {
    EXPECT_FALSE(CheckMachineName(bad).ok()) << bad;
  }
  EXPECT_TRUE(CheckMachineName(std::string(64, 'a')).ok());
  EXPECT_FALSE(CheckMachineName(std::string(65, 'a')).ok());
  EXPECT_FALSE(CheckMachineName(absl::string_view("a\0b", 3)).ok());
}

}  // namespace
}  // namespace ferrite
