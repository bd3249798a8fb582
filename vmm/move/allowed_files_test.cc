#include "vmm/move/allowed_files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/pinned_file.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class AllowedFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = "/tmp/ferrite-allowed-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = fs::canonical(pattern).string();
    for (const char* name : {"images", "images/deep", "images2", "boot"}) {
      fs::create_directory(In(name));
    }
    for (const char* name : {"images/a", "images/deep/b", "images2/c", "boot/k"}) {
      std::ofstream(In(name)) << name;
    }
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string In(const std::string& name) const { return absl::StrCat(directory_, "/", name); }

  static std::string Text(const Fd& fd) {
    char text[64];
    const ssize_t length = read(fd.get(), text, sizeof(text));
    return length < 0 ? "unreadable" : std::string(text, static_cast<size_t>(length));
  }
  static std::string Text(const absl::StatusOr<PinnedFile>& file) {
    return file.ok() ? Text(file->Open(O_RDONLY)) : std::string(file.status().message());
  }
  static AllowedFiles Allow(const ArrivalOptions& options) {
    auto files = AllowedFiles::Find(options);
    EXPECT_TRUE(files.ok()) << files.status();
    return *std::move(files);
  }
  static std::string Error(const ArrivalOptions& options) {
    return std::string(AllowedFiles::Find(options).status().message());
  }

  std::string directory_;
};

TEST_F(AllowedFilesTest, WithoutAnOptionNothingIsLookedFor) {
  const Fd events(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  ASSERT_GE(inotify_add_watch(events.get(), In("images").c_str(), IN_ALL_EVENTS), 0);
  const AllowedFiles files = Allow({.boot_from = {In("boot")}});
  EXPECT_EQ(
      Text(files.FindDisk(In("images/a"))),
      absl::StrCat(In("images/a"),
                   " is below no directory that `ferrite receive --disk-from DIR` names, and was not looked for"));
  EXPECT_EQ(
      Text(Allow({.disk_from = {In("images2")}}).FindBootFile(In("images2/c"))),
      absl::StrCat(In("images2/c"),
                   " is below no directory that `ferrite receive --boot-from DIR` names, and was not looked for"));
  EXPECT_EQ(Text(Allow({}).FindDisk("/dev/zero")).find("/dev/zero is below no directory"), 0u);
  char event[512];
  EXPECT_LT(read(events.get(), event, sizeof(event)), 0) << "something was opened";
  EXPECT_EQ(files.Disk("root"), nullptr);
  EXPECT_EQ(files.kernel(), nullptr);
}

TEST_F(AllowedFilesTest, WhatIsBelowTheDirectoryIsFound) {
  const AllowedFiles files = Allow({.disk_from = {In("images/"), In("images2/.")}, .boot_from = {In("boot")}});
  EXPECT_EQ(Text(files.FindDisk(In("images/a"))), "images/a");
  EXPECT_EQ(Text(files.FindDisk(In("images/deep/b"))), "images/deep/b");
  EXPECT_EQ(Text(files.FindDisk(In("images/./deep//../a"))), "images/a");
  EXPECT_EQ(Text(files.FindDisk(In("images2/c"))), "images2/c");
  EXPECT_EQ(Text(files.FindBootFile(In("boot/k"))), "boot/k");
  EXPECT_EQ(Text(files.FindDisk(In("images/x"))), absl::StrCat(In("images/x"), ": No such file or directory"));
  EXPECT_EQ(files.FindDisk(In("images/./a"))->path(), In("images/a"));
  EXPECT_EQ(Text(Allow({.disk_from = {"/"}}).FindDisk(In("images/a"))), "images/a");
}

TEST_F(AllowedFilesTest, WhatIsNotBelowTheDirectoryIsNot) {
  const AllowedFiles files = Allow({.disk_from = {In("images")}});
  for (const std::string& outside :
       {In("images2/c"), In("images/../images2/c"), In("images"), In("images/"), std::string("images/a"),
        std::string("a"), std::string(), In("boot/k"), absl::StrCat("/images", In("images/a"))}) {
    EXPECT_TRUE(absl::StrContains(Text(files.FindDisk(outside)), "is below no directory")) << outside;
  }
  fs::create_symlink(In("boot/k"), In("images/link"));
  fs::create_symlink("../boot", In("images/way"));
  for (const char* link : {"images/link", "images/way/k"}) {
    EXPECT_EQ(Text(files.FindDisk(In(link))),
              absl::StrCat(In(link), ": there is a link in its path, and none is followed"));
  }
}

// As two hosts may reach one storage by different names.
TEST_F(AllowedFilesTest, DirectoryHasTheNameThatTheUserWroteAndItsOwn) {
  fs::create_symlink("images", In("srv"));
  const AllowedFiles files = Allow({.disk_from = {In("srv")}});
  EXPECT_EQ(Text(files.FindDisk(In("srv/a"))), "images/a");
  EXPECT_EQ(Text(files.FindDisk(In("images/a"))), "images/a");
  // Only by its name: the directory is the one that was there at first.
  fs::remove(In("srv"));
  fs::create_symlink("images2", In("srv"));
  EXPECT_EQ(Text(files.FindDisk(In("srv/a"))), "images/a");
  EXPECT_EQ(Text(files.FindDisk(In("srv/c"))), absl::StrCat(In("srv/c"), ": No such file or directory"));

  const fs::path before = fs::current_path();
  fs::current_path(directory_);
  const AllowedFiles relative = Allow({.disk_from = {"."}});
  fs::current_path(before);
  EXPECT_EQ(Text(relative.FindDisk(In("images/a"))), "images/a");
}

TEST_F(AllowedFilesTest, WhatTheUserNamesIsWhatWasThereAtFirst) {
  const AllowedFiles files = Allow(
      {.disk_paths = {{"root", In("images/a")}}, .kernel_path = In("boot/k"), .initrd_path = In("images/deep/b")});
  for (const char* name : {"images/a", "boot/k", "images/deep/b"}) {
    fs::remove(In(name));
    fs::create_symlink(In("images2/c"), In(name));
  }
  EXPECT_EQ(Text(files.Disk("root")->Open(O_RDONLY)), "images/a");
  EXPECT_EQ(files.Disk("data"), nullptr);
  EXPECT_EQ(Text(files.kernel()->file.Open(O_RDONLY)), "boot/k");
  EXPECT_EQ(Text(files.initrd()->file.Open(O_RDONLY)), "images/deep/b");
  EXPECT_FALSE(files.kernel()->content.has_value());
}

TEST_F(AllowedFilesTest, ErrorsNameTheOptionAndThePath) {
  const std::string none = In("none");
  const std::string missing = absl::StrCat(": ", none, ": No such file or directory");
  EXPECT_EQ(Error({.disk_paths = {{"root", none}}}), absl::StrCat("--disk root", missing));
  EXPECT_EQ(Error({.kernel_path = none}), absl::StrCat("--kernel", missing));
  EXPECT_EQ(Error({.kernel_path = In("boot/k"), .initrd_path = none}), absl::StrCat("--initrd", missing));
  EXPECT_EQ(Error({.disk_from = {none}}), absl::StrCat("--disk-from", missing));
  EXPECT_EQ(Error({.boot_from = {In("boot"), none}}), absl::StrCat("--boot-from", missing));
  EXPECT_EQ(Error({.disk_from = {In("images/a")}}), absl::StrCat("--disk-from: ", In("images/a"), " is no directory"));
  EXPECT_EQ(Error({.kernel_path = In("boot")}), absl::StrCat("--kernel: kernel ", In("boot"), " is a directory"));
}

// Somebody else would say which file the user of this host means.
TEST_F(AllowedFilesTest, PlacesOfCopiesAreThoseThatTheUserNamed) {
  EXPECT_FALSE(Allow({}).Copy("root").has_value());
  const AllowedFiles named = Allow(
      {.disk_copies = {{"root", {.path = In("images/new")}}, {"data", {.path = In("images/a"), .existing = true}}}});
  EXPECT_EQ(named.Copy("root")->path, In("images/new"));
  EXPECT_TRUE(named.Copy("root")->is_named);
  EXPECT_EQ(named.Copy("root")->file, nullptr);
  ASSERT_NE(named.Copy("root")->directory, nullptr);
  EXPECT_EQ(Text(named.Copy("data")->file->Open(O_RDONLY)), "images/a");
  EXPECT_FALSE(named.Copy("other").has_value());

  const AllowedFiles all =
      Allow({.name = "web1", .disk_paths = {{"shared", In("images/a")}}, .disk_copy_dir = In("images")});
  EXPECT_EQ(all.Copy("root")->path, In("images/web1-root.img"));
  EXPECT_FALSE(all.Copy("root")->is_named);
  EXPECT_FALSE(all.Copy("shared").has_value());
}

// The directory is the one that was there at first, whatever takes its name.
TEST_F(AllowedFilesTest, PlaceOfACopyIsInTheDirectoryThatWasFound) {
  const AllowedFiles files = Allow({.name = "web1", .disk_copy_dir = In("images")});
  fs::rename(In("images"), In("before"));
  fs::rename(In("images2"), In("images"));
  const std::shared_ptr<const Fd> directory = files.Copy("root")->directory;
  EXPECT_EQ(Text(Fd(openat(directory->get(), "a", O_RDONLY | O_CLOEXEC))), "images/a");
}

TEST_F(AllowedFilesTest, PlaceThatCannotBeIsRefusedAtTheStart) {
  const auto error = [](const std::string& path, bool existing) {
    return Error({.disk_copies = {{"root", {.path = path, .existing = existing}}}});
  };
  EXPECT_THAT(error(In("images/a"), false), HasSubstr("--disk-copy root: "));
  EXPECT_THAT(error(In("images/a"), false), HasSubstr("is there already; `,existing` writes over it"));
  EXPECT_THAT(error(In("images/new"), true), HasSubstr("No such file"));
  EXPECT_THAT(error(In("nowhere/new"), false), HasSubstr("No such file"));
  EXPECT_THAT(error(In("images/"), false), HasSubstr("is a directory"));
  EXPECT_THAT(Error({.name = "web1", .disk_copy_dir = In("nowhere")}), HasSubstr("--disk-copy-dir: "));
  EXPECT_THAT(Error({.name = "web1", .disk_copy_dir = In("images/a")}), HasSubstr("--disk-copy-dir: "));
}

TEST_F(AllowedFilesTest, LinksOfOthersAreNotFollowed) {
  if (geteuid() != 0) {
    GTEST_SKIP() << "A LINK OF ANOTHER USER IS NOT TESTED: only root can make one";
  }
  fs::create_symlink("images/a", In("file"));
  fs::create_symlink("images", In("directory"));
  EXPECT_EQ(Error({.disk_paths = {{"root", In("file")}}, .disk_from = {In("directory")}}), "");
  for (const char* link : {"file", "directory"}) {
    ASSERT_EQ(lchown(In(link).c_str(), 65534, 65534), 0);
  }
  for (const ArrivalOptions& options :
       {ArrivalOptions{.disk_paths = {{"root", In("file")}}}, ArrivalOptions{.kernel_path = In("file")},
        ArrivalOptions{.kernel_path = In("boot/k"), .initrd_path = In("directory/a")},
        ArrivalOptions{.disk_from = {In("directory")}}, ArrivalOptions{.boot_from = {In("directory")}}}) {
    EXPECT_TRUE(absl::StrContains(Error(options), "is a symbolic link that belongs to another user (uid 65534)"))
        << Error(options);
  }
}

}  // namespace
}  // namespace ferrite
