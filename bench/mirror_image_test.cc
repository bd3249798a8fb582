#include "bench/mirror_image.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "base/fd.h"

namespace ferrite {
namespace {

class MirrorImageTest : public testing::Test {
 protected:
  MirrorImageTest() : directory_(testing::TempDir() + "/image-" + std::to_string(getpid())) {
    std::filesystem::create_directory(directory_);
  }
  ~MirrorImageTest() override { std::filesystem::remove_all(directory_); }
  std::string Path(const char* name) const { return directory_ + "/" + name; }
  static void WriteByte(const std::string& path, off_t offset, char byte) {
    const Fd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    ASSERT_EQ(pwrite(fd.get(), &byte, 1, offset), 1);
  }

  const std::string directory_;
  const MirrorImage image_{.bytes = 64 << 20};
};

TEST_F(MirrorImageTest, HalfIsThereAndHalfOfThatIsData) {
  ASSERT_EQ(image_.Make(Path("a")).ToString(), "OK");
  const auto allocated = AllocatedBytes(Path("a"));
  ASSERT_TRUE(allocated.ok()) << allocated.status();
  // But for what the file system takes for itself.
  EXPECT_NEAR(static_cast<double>(*allocated), 32 << 20, 1 << 20);
  ASSERT_EQ(MakeSparseFile(Path("b"), image_.bytes).ToString(), "OK");
  const auto copied = CopyBarely(Path("a"), Path("b"));
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_EQ(*copied, image_.data_bytes());
  EXPECT_EQ(WarmFile(Path("a")).ToString(), "OK");
  EXPECT_EQ(ExpectSame(Path("a"), Path("b")).ToString(), "OK");
}

TEST_F(MirrorImageTest, SeesEveryDifference) {
  ASSERT_EQ(image_.Make(Path("a")).ToString(), "OK");
  ASSERT_EQ(MakeSparseFile(Path("b"), image_.bytes).ToString(), "OK");
  EXPECT_EQ(ExpectSame(Path("a"), Path("b")).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(CopyBarely(Path("a"), Path("b")).ok());
  // In a hole of both.
  const off_t last = static_cast<off_t>(image_.bytes) - 1;
  WriteByte(Path("b"), last, 'x');
  EXPECT_EQ(ExpectSame(Path("a"), Path("b")).code(), absl::StatusCode::kDataLoss);
  WriteByte(Path("b"), last, '\0');
  EXPECT_EQ(ExpectSame(Path("a"), Path("b")).ToString(), "OK");
  ASSERT_EQ(MakeSparseFile(Path("c"), image_.bytes / 2).ToString(), "OK");
  EXPECT_EQ(ExpectSame(Path("a"), Path("c")).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace ferrite
