#include "base/pinned_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Links = PinnedFile::Links;

constexpr uid_t kSomebody = 65534;

class PinnedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-pinned-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    MakeFile("file", "the file");
    MakeFile("other", "another");
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string In(const std::string& name) const { return absl::StrCat(directory_, "/", name); }
  void MakeFile(const std::string& name, const std::string& text) { std::ofstream(In(name)) << text; }

  static std::string Read(const PinnedFile& file) {
    const Fd fd = file.Open(O_RDONLY);
    char text[64];
    const ssize_t length = fd.valid() ? read(fd.get(), text, sizeof(text)) : -1;
    return length < 0 ? absl::StrCat("errno ", errno) : std::string(text, static_cast<size_t>(length));
  }
  static std::string Find(const std::string& path, Links links) {
    const auto file = PinnedFile::Find(path, links);
    return file.ok() ? Read(*file) : std::string(file.status().message());
  }
  std::string FindBelow(const std::string& below) const {
    const Fd directory(open(directory_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    const auto file = PinnedFile::FindBelow(directory.get(), below, absl::StrCat("NAME ", below));
    return file.ok() ? Read(*file) : std::string(file.status().message());
  }

  std::string directory_;
};

TEST_F(PinnedFileTest, WhatIsPutInThePlaceOfTheNameIsNotOpened) {
  for (const Links links : {Links::kAll, Links::kOwn}) {
    MakeFile("file", "the file");
    const auto file = PinnedFile::Find(In("file"), links);
    ASSERT_TRUE(file.ok()) << file.status();
    fs::remove(In("file"));
    EXPECT_EQ(Read(*file), "the file");
    fs::create_symlink(In("other"), In("file"));
    EXPECT_EQ(Read(*file), "the file");
    fs::remove(In("file"));
    MakeFile("file", "a new one");
    EXPECT_EQ(Read(*file), "the file");
    const Fd writer = file->Open(O_WRONLY);
    ASSERT_EQ(write(writer.get(), "THE", 3), 3);
    EXPECT_EQ(Read(*file), "THE file");
    EXPECT_EQ(Find(In("file"), links), "a new one");
  }
}

TEST_F(PinnedFileTest, SaysWhereItIsFoundNow) {
  fs::create_symlink("file", In("link"));
  const auto file = PinnedFile::Find(In("link"), Links::kAll);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->PathNow(), In("link"));
  fs::remove(In("link"));
  fs::create_symlink("other", In("link"));
  EXPECT_EQ(file->PathNow(), In("file")) << "that is another file now";
  fs::rename(In("file"), In("renamed"));
  EXPECT_EQ(file->PathNow(), In("renamed"));
  EXPECT_EQ(file->path(), In("link"));
  fs::remove(In("renamed"));
  EXPECT_EQ(file->PathNow(), "");
  MakeFile("renamed (deleted)", "another");
  EXPECT_EQ(file->PathNow(), "");
}

TEST_F(PinnedFileTest, HoldingItOpensNothing) {
  const auto file = PinnedFile::Find(In("file"), Links::kOwn);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->Access(R_OK | W_OK), 0);
  // A lease of this kind is given only when nobody has the file open.
  const Fd alone(open(In("file").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(fcntl(alone.get(), F_SETLEASE, F_WRLCK), 0);
}

TEST_F(PinnedFileTest, FollowsTheLinksOfItsUser) {
  fs::create_directory(In("d"));
  fs::create_symlink("../file", In("d/up"));
  fs::create_symlink(In("d"), In("there"));
  fs::create_symlink(".", In("d/here"));
  for (const Links links : {Links::kAll, Links::kOwn}) {
    EXPECT_EQ(Find(In("there/up"), links), "the file");
    EXPECT_EQ(Find(In("/there/./here//here/../d/up"), links), "the file");
    EXPECT_EQ(Find(In("nothing"), links), absl::StrCat(In("nothing"), ": No such file or directory"));
    EXPECT_TRUE(absl::EndsWithIgnoreCase(Find(In("file/x"), links), "not a directory"));
    EXPECT_FALSE(PinnedFile::Find("", links).ok());
    fs::create_symlink("loop", In("loop"));
    EXPECT_TRUE(
        absl::EndsWith(Find(In("loop"), links), absl::StrCat(In("loop"), ": Too many levels of symbolic links")));
    fs::remove(In("loop"));
  }
}

TEST_F(PinnedFileTest, RelativePathBeginsHere) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_);
  fs::create_symlink("file", "link");
  EXPECT_EQ(Find("link", Links::kOwn), "the file");
  EXPECT_EQ(Find("./file", Links::kOwn), "the file");
  fs::current_path(before);
}

TEST_F(PinnedFileTest, LinkOfSomebodyElseIsNotFollowed) {
  fs::create_directory(In("d"));
  fs::create_symlink("../other", In("d/link"));
  fs::create_symlink("d", In("way"));
  if (geteuid() != 0) {
    GTEST_SKIP() << "A LINK OF ANOTHER USER IS NOT TESTED: only root can make one";
  }
  for (const char* theirs : {"d/link", "way"}) {
    ASSERT_EQ(lchown(In(theirs).c_str(), kSomebody, kSomebody), 0);
    const std::string refusal = Find(In("way/link"), Links::kOwn);
    EXPECT_TRUE(
        absl::StrContains(refusal, absl::StrCat(fs::path(theirs).filename().string(),
                                                " is a symbolic link that belongs to another user (uid 65534)")))
        << refusal;
    EXPECT_EQ(Find(In("way/link"), Links::kAll), "another");
    ASSERT_EQ(lchown(In(theirs).c_str(), 0, 0), 0);
  }
  EXPECT_EQ(Find(In("way/link"), Links::kOwn), "another");
}

TEST_F(PinnedFileTest, NothingIsFoundOutsideTheDirectoryNorThroughALink) {
  fs::create_directory(In("d"));
  MakeFile("d/file", "deep");
  fs::create_symlink("file", In("link"));
  fs::create_symlink("d", In("way"));
  fs::create_symlink("/etc/passwd", In("out"));
  EXPECT_EQ(FindBelow("file"), "the file");
  EXPECT_EQ(FindBelow("d/file"), "deep");
  EXPECT_EQ(FindBelow("d/../file"), "the file");
  for (const char* link : {"link", "way/file", "out"}) {
    EXPECT_EQ(FindBelow(link), absl::StrCat("NAME ", link, ": there is a link in its path, and none is followed"));
  }
  for (const char* outside : {"..", "../file", "d/../../x", "/etc/passwd"}) {
    EXPECT_EQ(FindBelow(outside), absl::StrCat("NAME ", outside, ": it leads out of the directory"));
  }
  EXPECT_EQ(FindBelow("none"), "NAME none: No such file or directory");
  const Fd self(open("/proc/self", O_PATH | O_CLOEXEC));
  const auto beyond = PinnedFile::FindBelow(self.get(), "root/etc/passwd", "NAME");
  EXPECT_EQ(beyond.status().message(), "NAME: there is a link in its path, and none is followed");
}

// The owner of a file may have a lease on it, which open(2) waits 45 s to break.
TEST_F(PinnedFileTest, LeaseOfSomebodyElseIsNotWaitedFor) {
  ASSERT_NE(signal(SIGIO, SIG_IGN), SIG_ERR);  // tells of whoever opens it
  const Fd lease(open(In("file").c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(fcntl(lease.get(), F_SETLEASE, F_WRLCK), 0);
  EXPECT_EQ(Find(In("file"), Links::kOwn), absl::StrCat("errno ", EWOULDBLOCK));
}

}  // namespace
}  // namespace ferrite
