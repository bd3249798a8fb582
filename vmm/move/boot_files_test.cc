#include "vmm/move/boot_files.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/pinned_file.h"
#include "base/sha256.h"

namespace ferrite {
namespace {

class BootFileDigestsTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-digests-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::string Write(const std::string& name, const std::string& content) {
    std::string path = absl::StrCat(directory_, "/", name);
    std::ofstream(path) << content;
    std::filesystem::permissions(path, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
    return path;
  }
  absl::StatusOr<Sha256Digest> Of(const std::string& path) {
    auto file = PinnedFile::Find(path, PinnedFile::Links::kAll);
    return file.ok() ? digests_.Of(*file, std::filesystem::file_size(path)) : file.status();
  }
  static Sha256Digest Digest(const std::string& content) {
    return Sha256Of({reinterpret_cast<const uint8_t*>(content.data()), content.size()});
  }

  std::string directory_;
  BootFileDigests digests_;
};

// R11: a stranger that asks again and again costs no more than one that asks once.
TEST_F(BootFileDigestsTest, ReadAFileOnce) {
  const std::string path = Write("kernel", "one");
  for (int i = 0; i < 3; ++i) {
    const auto digest = Of(path);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, Digest("one"));
  }
  EXPECT_EQ(digests_.files_read(), 1u);
}

TEST_F(BootFileDigestsTest, ReadWhatWasChangedOrReplacedAgain) {
  const std::string path = Write("kernel", "one");
  ASSERT_TRUE(Of(path).ok());
  // Of the same size, at a time that the file system's clock tells from the first.
  const auto before = std::filesystem::last_write_time(path);
  Write("kernel", "two");
  std::filesystem::last_write_time(path, before + std::chrono::seconds(1));
  EXPECT_EQ(*Of(path), Digest("two"));
  std::filesystem::rename(Write("other", "six"), path);
  EXPECT_EQ(*Of(path), Digest("six"));
  EXPECT_EQ(digests_.files_read(), 3u);
}

TEST_F(BootFileDigestsTest, KnowAFewOnly) {
  for (int i = 0; i < 65; ++i) {
    ASSERT_TRUE(Of(Write(absl::StrCat("kernel", i), "content")).ok());
  }
  ASSERT_TRUE(Of(absl::StrCat(directory_, "/kernel64")).ok());
  EXPECT_EQ(digests_.files_read(), 65u);
  ASSERT_TRUE(Of(absl::StrCat(directory_, "/kernel0")).ok());
  EXPECT_EQ(digests_.files_read(), 66u);
}

// Who may write to it can do so without a change of its times.
TEST_F(BootFileDigestsTest, ReadAFileThatOthersMayWriteToAgain) {
  const std::string path = Write("kernel", "one");
  std::filesystem::permissions(path, std::filesystem::perms::others_write, std::filesystem::perm_options::add);
  ASSERT_TRUE(Of(path).ok());
  EXPECT_EQ(*Of(path), Digest("one"));
  EXPECT_EQ(digests_.files_read(), 2u);
}

TEST_F(BootFileDigestsTest, AreNotWaitedForAtTheEnd) {
  const std::string path = Write("kernel", "one");
  digests_.End();
  EXPECT_TRUE(absl::IsCancelled(Of(path).status())) << Of(path).status();
}

}  // namespace
}  // namespace ferrite
