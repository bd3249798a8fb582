#include "vmm/control/run_base.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/run_base_rig.h"

namespace ferrite {
namespace {

using ::testing::UnorderedElementsAre;

using RunBaseOfATest = RunBaseTest;

TEST(RunBaseTextTest, OptionIsTakenWithoutItsLastSlash) {
  EXPECT_EQ(*RunBase("/a/b/"), "/a/b");
  EXPECT_EQ(*RunBase("a"), "a");
  EXPECT_EQ(*RunBase("/"), "/");
}

TEST_F(RunBaseOfATest, IsThereAndMayBeLookedAtOrItIsSaidWhyNot) {
  EXPECT_EQ(CheckRunBase(base_), absl::OkStatus());
  EXPECT_EQ(CheckRunBase(base_ + "/none"),
            absl::NotFoundError(absl::StrCat("run directory ", base_, "/none does not exist")));
  std::ofstream(base_ + "/file") << "x";
  const absl::Status file = CheckRunBase(base_ + "/file");
  EXPECT_TRUE(absl::IsFailedPrecondition(file)) << file;
  EXPECT_TRUE(absl::StrContains(file.message(), base_ + "/file")) << file;
  ASSERT_EQ(chmod(base_.c_str(), 0777), 0);
  const absl::Status open_to_all = OpenBase(base_, {}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(open_to_all)) << open_to_all;
  EXPECT_TRUE(absl::StrContains(open_to_all.message(), "choose another with --run-dir")) << open_to_all;
}

TEST_F(RunBaseOfATest, NamesAreAllThatIsInIt) {
  std::ofstream(base_ + "/file") << "x";
  std::filesystem::create_directory(base_ + "/vm");
  const auto base = OpenBaseToLook(base_);
  ASSERT_TRUE(base.ok()) << base.status();
  const auto names = NamesIn(*base);
  ASSERT_TRUE(names.ok()) << names.status();
  EXPECT_THAT(*names, UnorderedElementsAre(".", "..", "file", "vm"));
}

}  // namespace
}  // namespace ferrite
