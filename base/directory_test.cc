#include "base/directory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kMe = 1000;
constexpr uid_t kRoot = 0;
constexpr uid_t kOther = 1001;

TEST(CheckDirectoryTest, OnlyDirectoriesInWhichNobodyElseRenamesPass) {
  const struct {
    uid_t owner;
    mode_t mode;
    const char* why;  // nullptr: it passes
  } cases[] = {
      {kMe, 0700, nullptr},
      {kMe, 0755, nullptr},
      {kRoot, 0755, nullptr},
      {kRoot, 01777, nullptr},
      {kMe, 01770, nullptr},
      {kMe, 0777, "others may rename what is in the directory /d (its mode is 0777"},
      {kMe, 0770, "its mode is 0770"},
      {kRoot, 0772, "its mode is 0772"},
      {kOther, 0700, "/d belongs to another user (uid 1001)"},
      {kOther, 01777, "/d belongs to another user (uid 1001)"},
  };
  for (const auto& c : cases) {
    struct stat info = {};
    info.st_uid = c.owner;
    info.st_mode = S_IFDIR | c.mode;
    const absl::Status status = CheckDirectory("/d", info, {.user = kMe, .root = kRoot});
    EXPECT_EQ(status.ok(), c.why == nullptr) << c.owner << " " << std::oct << c.mode << ": " << status;
    if (c.why != nullptr) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_TRUE(absl::StrContains(status.message(), c.why)) << status;
    }
  }
}

// Users to whom nothing here belongs: to them everything is somebody else's.
constexpr TrustedUsers kStrangers = {.user = 54'321, .root = 54'322};

class DirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-directory-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    path_ = name;
  }
  void TearDown() override { fs::remove_all(path_); }

  Fd Open() { return Fd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }
  static ino_t InodeOf(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_ino;
  }
  static ino_t InodeOf(const Fd& fd) {
    struct stat info = {};
    EXPECT_EQ(fstat(fd.get(), &info), 0);
    return info.st_ino;
  }
  void ExpectLeadsTo(const std::string& path, const std::string& where) {
    const auto directory = WalkToDirectory(path, {});
    ASSERT_TRUE(directory.ok()) << path << ": " << directory.status();
    EXPECT_EQ(InodeOf(*directory), InodeOf(where)) << path;
  }

  std::string path_;
};

TEST_F(DirectoryTest, WalkLeadsWhereTheKernelWould) {
  fs::create_directories(path_ + "/a/b/c");
  fs::create_symlink("b/c", path_ + "/a/relative");
  fs::create_symlink(path_ + "/a", path_ + "/absolute");
  fs::create_symlink("../absolute/relative/..", path_ + "/a/nested");
  ExpectLeadsTo("/", "/");
  ExpectLeadsTo(path_ + "//a/./b/", path_ + "/a/b");
  ExpectLeadsTo(path_ + "/a/b/../b/c", path_ + "/a/b/c");
  ExpectLeadsTo(path_ + "/a/relative", path_ + "/a/b/c");
  ExpectLeadsTo(path_ + "/a/relative/..", path_ + "/a/b");
  ExpectLeadsTo(path_ + "/absolute/relative", path_ + "/a/b/c");
  ExpectLeadsTo(path_ + "/a/nested", path_ + "/a/b");
  ExpectLeadsTo("/../..", "/");
  const Fd here = Open();
  ExpectLeadsTo(absl::StrCat("/proc/self/fd/", here.get(), "/a"), path_ + "/a");
}

TEST_F(DirectoryTest, WhatIsInTheWayIsNamed) {
  std::ofstream(path_ + "/file") << "x";
  fs::create_symlink("loop", path_ + "/loop");
  EXPECT_TRUE(absl::IsNotFound(WalkToDirectory(path_ + "/none/x", {}).status()));
  for (const char* path : {"/file", "/file/x"}) {
    const absl::Status status = WalkToDirectory(path_ + path, {}).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/file is not a directory")) << status;
  }
  const absl::Status status = WalkToDirectory(path_ + "/loop", {}).status();
  EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/loop")) << status;
}

TEST_F(DirectoryTest, DirectoryInWhichOthersRenameIsRefusedAlsoOnTheWay) {
  fs::create_directories(path_ + "/open/mine");
  ASSERT_EQ(chmod((path_ + "/open").c_str(), 0777), 0);
  std::vector<MadeDirectory> made;
  for (const char* path : {"/open", "/open/mine", "/open/new"}) {
    const absl::Status status = WalkToDirectory(path_ + path, {.made = &made}).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/open (its mode is 0777")) << status;
  }
  EXPECT_FALSE(fs::exists(path_ + "/open/new"));
  EXPECT_TRUE(WalkToDirectory(path_ + "/open/mine", {.through_anybodys = true}).ok());
  ASSERT_EQ(chmod((path_ + "/open").c_str(), 01777), 0);
  EXPECT_TRUE(WalkToDirectory(path_ + "/open/mine", {}).ok());
}

TEST_F(DirectoryTest, WalkOfAnotherUserEndsWhereSomethingIsNotTheirs) {
  const absl::Status status = WalkToDirectory(path_, {.trusted = kStrangers}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "belongs to another user")) << status;
}

TEST_F(DirectoryTest, LinkOfAnotherUserIsNeverFollowed) {
  fs::create_directories(path_ + "/victim");
  fs::create_symlink("victim", path_ + "/link");
  EXPECT_TRUE(WalkToDirectory(path_ + "/link", {}).ok());
  EXPECT_TRUE(WalkToDirectory(path_ + "/victim", {.trusted = kStrangers, .through_anybodys = true}).ok());
  const absl::Status status =
      WalkToDirectory(path_ + "/link", {.trusted = kStrangers, .through_anybodys = true}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/link is a symbolic link that belongs to another user"))
      << status;
}

TEST_F(DirectoryTest, WhatIsMadeIsItsOwnersAloneWhateverTheUmask) {
  for (const mode_t mask : {0, 022, 0277}) {
    std::vector<MadeDirectory> made;
    const mode_t before = umask(mask);
    const auto directory = WalkToDirectory(path_ + "/x/y", {.made = &made});
    umask(before);
    ASSERT_TRUE(directory.ok()) << directory.status();
    for (const char* path : {"/x", "/x/y"}) {
      struct stat info = {};
      ASSERT_EQ(stat((path_ + path).c_str(), &info), 0);
      EXPECT_EQ(info.st_mode & 0777, 0700u) << path << " with umask " << std::oct << mask;
    }
    EXPECT_EQ(made.size(), 2u);
    RemoveDirectories(made);
    EXPECT_TRUE(fs::is_empty(path_));
  }
}

TEST_F(DirectoryTest, FilesToAppendToAreMadeAndFoundButNotByALinkOfAnotherUser) {
  std::ofstream(path_ + "/victim") << "v";
  fs::create_symlink("victim", path_ + "/link");
  fs::create_symlink("new", path_ + "/link-to-new");
  for (const char* name : {"/victim", "/link", "/link-to-new"}) {
    const auto file = OpenForAppending(path_ + name, AppendTo::kRegularFile);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(write(file->get(), "a", 1), 1);
  }
  EXPECT_EQ(fs::file_size(path_ + "/victim"), 3u);
  EXPECT_EQ(fs::file_size(path_ + "/new"), 1u);
  EXPECT_TRUE(OpenForAppending(path_ + "/victim", AppendTo::kRegularFile, kStrangers).ok());
  const absl::Status status = OpenForAppending(path_ + "/link", AppendTo::kRegularFile, kStrangers).status();
  EXPECT_TRUE(absl::StrContains(status.message(), path_ + "/link is a symbolic link that belongs to another user"))
      << status;
  EXPECT_TRUE(absl::IsNotFound(OpenForAppending(path_ + "/none/file", AppendTo::kRegularFile).status()));
  EXPECT_FALSE(OpenForAppending(path_, AppendTo::kAnything).ok());
  EXPECT_FALSE(OpenForAppending("/", AppendTo::kAnything).ok());
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const Fd read_end(ends[0]);
  const Fd write_end(ends[1]);
  const std::string pipe = absl::StrCat("/dev/fd/", write_end.get());
  EXPECT_TRUE(OpenForAppending(pipe, AppendTo::kAnything).ok());
  ASSERT_EQ(mkfifo((path_ + "/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(OpenForAppending(path_ + "/fifo", AppendTo::kAnything).ok()) << "nobody reads it";
  for (const std::string& odd : {pipe, path_ + "/fifo"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(OpenForAppending(odd, AppendTo::kRegularFile).status())) << odd;
  }
}

// A FIFO would be waited for: this test would not end.
TEST_F(DirectoryTest, OnlyRegularFilesAreOpenedAndNothingIsWaitedFor) {
  const Fd directory = Open();
  ASSERT_EQ(mkfifo((path_ + "/fifo").c_str(), 0600), 0);
  std::ofstream(path_ + "/victim") << "v";
  fs::create_symlink("victim", path_ + "/link");
  fs::create_directory(path_ + "/directory");
  for (const int flags : {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_CREAT}) {
    for (const char* name : {"fifo", "link", "directory"}) {
      const absl::Status status = OpenRegularAt(directory, name, flags, 0600).status();
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << flags << ": " << status;
      EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat(path_, "/", name, " is not a regular file")))
          << status;
    }
    EXPECT_TRUE(OpenRegularAt(directory, "victim", flags, 0600).ok());
  }
  EXPECT_TRUE(absl::IsNotFound(OpenRegularAt(directory, "none", O_RDONLY).status()));
}

// The directory that was looked at stays the one that is used.
TEST_F(DirectoryTest, WhatIsRenamedOnTheWayChangesNothing) {
  fs::create_directories(path_ + "/base");
  fs::create_directories(path_ + "/victim");
  const auto base = WalkToDirectory(path_ + "/base", {});
  ASSERT_TRUE(base.ok()) << base.status();
  fs::rename(path_ + "/base", path_ + "/away");
  fs::create_directory_symlink("victim", path_ + "/base");
  ASSERT_TRUE(OpenRegularAt(*base, "log", O_WRONLY | O_CREAT | O_EXCL, 0600).ok());
  EXPECT_TRUE(fs::exists(path_ + "/away/log"));
  EXPECT_TRUE(fs::is_empty(path_ + "/victim"));
  EXPECT_EQ(PathAt(*base, "log"), path_ + "/away/log");
}

TEST_F(DirectoryTest, FileIsFoundFromADirectoryThatWasLookedAt) {
  fs::create_directories(path_ + "/base/sub");
  fs::create_directories(path_ + "/victim");
  for (const char* file : {"/base/sub/key", "/base/beside", "/victim/key", "/outside"}) {
    std::ofstream(path_ + file) << file;
  }
  // Whoever renews files often has links to a directory that changes.
  fs::create_directory_symlink("sub", path_ + "/base/newest");
  fs::create_symlink("newest/key", path_ + "/base/key");
  fs::create_symlink("../outside", path_ + "/base/up");
  fs::create_symlink(path_ + "/outside", path_ + "/base/absolute");
  const auto base = FindFile(path_ + "/base");
  ASSERT_TRUE(base.ok()) << base.status();
  const auto found = [&](const std::string& path) {
    const auto file = FindFileAt(*base, path);
    EXPECT_TRUE(file.ok()) << file.status();
    return file.ok() ? PathAt(*file, "") : "";
  };
  EXPECT_EQ(found("beside"), path_ + "/base/beside/");
  EXPECT_EQ(found("key"), path_ + "/base/sub/key/");
  EXPECT_EQ(found("up"), path_ + "/outside/");
  EXPECT_EQ(found("absolute"), path_ + "/outside/");
  fs::rename(path_ + "/base", path_ + "/away");
  fs::create_directory_symlink("victim", path_ + "/base");
  EXPECT_EQ(found("key"), path_ + "/away/sub/key/");
  const auto none = FindFileAt(*base, "none");
  EXPECT_TRUE(absl::IsNotFound(none.status())) << none.status();
  EXPECT_TRUE(absl::StrContains(none.status().message(), path_ + "/away/none")) << none.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(FindFileAt(*base, "key", kStrangers).status())) << "a link of somebody's";
}

}  // namespace
}  // namespace ferrite
