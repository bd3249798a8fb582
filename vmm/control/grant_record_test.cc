#include "vmm/control/grant_record.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

namespace ferrite {
namespace {

constexpr migration::MoveId kId{7};

class GrantRecordTest : public testing::Test {
 protected:
  GrantRecordTest() : path_(testing::TempDir() + "/grant_record_test"), directory_(Open(path_)) {}
  ~GrantRecordTest() override { std::filesystem::remove_all(path_); }

  static int Open(const std::string& path) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directory(path);
    return open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  }

  size_t files() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

  const std::string path_;
  const Fd directory_;
};

TEST_F(GrantRecordTest, CountsFromItsCommitOn) {
  auto prepared = PreparedGrant::Write(directory_, kId, 1, "tcp:there:1");
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(absl::IsNotFound(ReadGrantRecord(directory_).status()));
  ASSERT_TRUE(prepared->Commit().ok());
  const auto record = ReadGrantRecord(directory_);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->epoch, 1);
  EXPECT_EQ(record->where, "tcp:there:1");
  EXPECT_EQ(files(), 1);
}

TEST_F(GrantRecordTest, WhatIsNotCommittedGoes) {
  {
    auto prepared = PreparedGrant::Write(directory_, kId, 1, "tcp:there:1");
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_EQ(files(), 1);
    const PreparedGrant moved = *std::move(prepared);
    EXPECT_EQ(files(), 1);
  }
  EXPECT_EQ(files(), 0);
}

TEST_F(GrantRecordTest, WhatIsCommittedStays) {
  {
    auto prepared = PreparedGrant::Write(directory_, kId, 1, "tcp:there:1");
    ASSERT_TRUE(prepared.ok() && prepared->Commit().ok());
  }
  EXPECT_TRUE(ReadGrantRecord(directory_).ok());
}

TEST_F(GrantRecordTest, SaysWhatItWasMadeFor) {
  const auto prepared = PreparedGrant::Write(directory_, kId, 1, "tcp:there:1");
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_TRUE(prepared->Says(kId, 1, "tcp:there:1"));
  EXPECT_FALSE(prepared->Says(kId, 2, "tcp:there:1"));
  EXPECT_FALSE(prepared->Says(kId, 1, "tcp:there:2"));
  EXPECT_FALSE(prepared->Says({8}, 1, "tcp:there:1"));
}

TEST_F(GrantRecordTest, WhatCannotBeCommittedLeavesNothing) {
  std::filesystem::create_directory(path_ + "/grant");
  {
    auto prepared = PreparedGrant::Write(directory_, kId, 1, "tcp:there:1");
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_FALSE(prepared->Commit().ok());
  }
  EXPECT_EQ(files(), 1) << "the directory";
}

}  // namespace
}  // namespace ferrite
