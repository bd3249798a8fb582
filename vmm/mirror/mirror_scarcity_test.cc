// Mirrors that are refused a descriptor somewhere on their way to begin: nothing of them is left, and a file that was
// there is as it was.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/fd.h"
#include "tests/fakes/file_content.h"
#include "tests/fakes/scarcity.h"
#include "vmm/mirror/mirror_job_rig.h"

namespace ferrite {
namespace {

class MirrorScarcityTest : public MirrorJobRig {};

TEST_F(MirrorScarcityTest, OneThatLacksADescriptorLeavesNothing) {
  const std::string content(kBytes, 'x');
  const std::string there = directory_ / "there.img";
  const std::string empty = directory_ / "empty.img";
  for (const std::string& target : {there, empty, target_}) {
    SCOPED_TRACE(target);
    uint64_t refused = 0;
    for (;; ++refused) {
      ASSERT_LT(refused, 100u);
      if (target != target_) {
        const Fd file(open(target.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
        if (target == there) {
          ASSERT_EQ(pwrite(file.get(), content.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
        }
      }
      MirrorRequest request = To(target);
      request.existing = target != target_;
      bool has_begun = false;
      {
        const Scarcity few(Scarce::kDescriptors, refused + 1);
        has_begun = mirrors_->Start(request).ok();
      }
      if (has_begun) {
        break;
      }
      EXPECT_FALSE(std::filesystem::exists(target + ".incomplete")) << "descriptor " << refused + 1;
      EXPECT_FALSE(disks_->has_witness());
      if (target == target_) {
        EXPECT_FALSE(std::filesystem::exists(target));
      } else {
        EXPECT_TRUE(FileContent(target) == (target == there ? content : "")) << "descriptor " << refused + 1;
      }
    }
    EXPECT_GT(refused, 5u);
    EXPECT_EQ(mirrors_->Cancel("root", /*keep_copy=*/false).ToString(), "OK");
  }
}

}  // namespace
}  // namespace ferrite
