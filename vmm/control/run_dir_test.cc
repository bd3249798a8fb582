#include "vmm/control/run_dir.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unix_socket.h"
#include "tests/fakes/run_base_rig.h"
#include "vmm/control/grant_record.h"
#include "vmm/control/handed_over.h"
#include "vmm/control/machine_finder.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

using RunDirTest = RunBaseTest;

TEST_F(RunDirTest, NothingIsLeftBehind) {
  {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    auto listener = (*dir)->ListenOnControlSocket();
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::ofstream((*dir)->log_path()) << "log";
    struct stat info = {};
    ASSERT_EQ(stat((*dir)->socket_path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    ASSERT_EQ(stat((*dir)->path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    EXPECT_TRUE(ConnectToUnixSocket((*dir)->socket_path()).ok());
  }
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(RunDirTest, MakesTheBaseAndItsParentsAndRemovesWhatItMade) {
  const std::string base = base_ + "/x/y";
  {
    auto dir = RunDir::Create(base, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_TRUE(fs::exists(base + "/vm/ferrite.pid"));
  }
  EXPECT_TRUE(fs::is_empty(base_));
  {
    auto dir = RunDir::Create(base, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    std::ofstream(base_ + "/x/notes") << "mine";
  }
  EXPECT_FALSE(fs::exists(base));
  EXPECT_TRUE(fs::exists(base_ + "/x/notes"));
}

TEST_F(RunDirTest, LiveMachineRefusesASecondOfItsName) {
  auto first = RunDir::Create(base_, "vm");
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = RunDir::Create(base_, "vm");
  EXPECT_TRUE(absl::IsAlreadyExists(second.status())) << second.status();
  EXPECT_TRUE(absl::StrContains(second.status().message(), absl::StrCat("pid ", getpid()))) << second.status();
  EXPECT_TRUE(RunDir::Create(base_, "other").ok());
  EXPECT_TRUE(FindMachine(base_, "vm").ok());
  EXPECT_TRUE(absl::IsNotFound(FindMachine(base_, "other").status()));
}

TEST_F(RunDirTest, KilledMachineIsReplaced) {
  LeaveStale("vm");
  ASSERT_TRUE(fs::exists(base_ + "/vm/control.sock"));
  EXPECT_TRUE(absl::IsNotFound(FindMachine(base_, "vm").status()));
  auto dir = RunDir::Create(base_, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  EXPECT_TRUE((*dir)->ListenOnControlSocket().ok());
  EXPECT_FALSE(fs::exists((*dir)->log_path()));
}

TEST_F(RunDirTest, NumberOfALivingProcessProvesNothing) {
  LeaveStale("vm");
  std::ofstream(base_ + "/vm/ferrite.pid") << getpid() << "\n";
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
}

TEST_F(RunDirTest, ParentsThatAreMadeAreTheUsersAloneWhateverTheUmask) {
  const mode_t before = umask(0);
  const auto dir = RunDir::Create(base_ + "/x/y", "vm");
  umask(before);
  ASSERT_TRUE(dir.ok()) << dir.status();
  for (const char* path : {"/x", "/x/y", "/x/y/vm"}) {
    struct stat info = {};
    ASSERT_EQ(stat((base_ + path).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u) << path;
  }
}

TEST_F(RunDirTest, BaseInWhichOthersRenameIsRefusedByNameAndLeftAlone) {
  for (const char* sub : {"", "/sub", "/sub/new"}) {
    fs::create_directories(base_ + "/sub");
    ASSERT_EQ(chmod(base_.c_str(), 0777), 0);
    const std::string base = base_ + sub;
    for (const absl::Status& status : {RunDir::Create(base, "vm").status(), ForgetHandedOver(base, "vm")}) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_TRUE(absl::StrContains(status.message(), base_ + " (its mode is 0777")) << status;
      EXPECT_TRUE(absl::StrContains(status.message(), "choose another with --run-dir")) << status;
    }
    EXPECT_TRUE(fs::is_empty(base_ + "/sub"));
    fs::remove(base_ + "/sub");
    EXPECT_TRUE(fs::is_empty(base_));
  }
  ASSERT_EQ(chmod(base_.c_str(), 01777), 0);
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
}

TEST_F(RunDirTest, MachinesDirectoryToWhichOthersMayWriteIsRefused) {
  fs::create_directory(base_ + "/vm");
  ASSERT_EQ(chmod((base_ + "/vm").c_str(), 01777), 0);
  const absl::Status status = RunDir::Create(base_, "vm").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), base_ + "/vm is not a directory of this user alone")) << status;
}

// Whatever waits under a name of ours is neither followed nor written to.
TEST_F(RunDirTest, LinksInTheMachinesDirectoryLeadNowhere) {
  const std::string victim = base_ + "/victim";
  const auto plant = [&](const std::string& name) {
    std::error_code ignored;
    fs::remove(base_ + "/vm/" + name, ignored);
    fs::create_symlink(victim, base_ + "/vm/" + name);
  };
  std::ofstream(victim) << "secret";
  fs::create_directory(base_ + "/vm");
  ASSERT_EQ(chmod((base_ + "/vm").c_str(), 0700), 0);
  plant("ferrite.pid");
  EXPECT_TRUE(absl::IsFailedPrecondition(RunDir::Create(base_, "vm").status()));
  fs::remove(base_ + "/vm/ferrite.pid");
  for (const char* name : {"ferrite.log", "grant.new", "control.sock"}) {
    plant(name);
  }
  {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    for (const char* name : {"ferrite.log", "grant.new", "control.sock"}) {
      plant(name);
    }
    EXPECT_FALSE((*dir)->CreateLog().ok());
    EXPECT_TRUE(absl::IsAlreadyExists((*dir)->ListenOnControlSocket().status()));
    EXPECT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 7, "tcp:there:1").ok());
    EXPECT_EQ(ReadGrantRecord((*dir)->directory())->where, "tcp:there:1");
    EXPECT_FALSE(fs::is_symlink(base_ + "/vm/grant"));
  }
  std::string text;
  std::ifstream(victim) >> text;
  EXPECT_EQ(text, "secret");
  fs::remove(victim);
  EXPECT_TRUE(fs::is_empty(base_));
}

// The machine's directory that was made is the one that is used and removed, wherever it is by then.
TEST_F(RunDirTest, DirectoryThatIsRenamedAwayIsUsedAllTheSame) {
  fs::create_directory(base_ + "/victim");
  {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    fs::rename(base_ + "/vm", base_ + "/away");
    fs::create_directory_symlink("victim", base_ + "/vm");
    auto log = (*dir)->CreateLog();
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_TRUE((*dir)->ListenOnControlSocket().ok());
    ASSERT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 7, "tcp:there:1").ok());
    EXPECT_TRUE(fs::is_empty(base_ + "/victim"));
    for (const char* name : {"ferrite.pid", "ferrite.log", "control.sock", "grant"}) {
      EXPECT_TRUE(fs::exists(base_ + "/away/" + name)) << name;
    }
    std::ofstream(base_ + "/victim/ferrite.log") << "theirs";
  }
  EXPECT_TRUE(fs::exists(base_ + "/victim/ferrite.log"));
  EXPECT_TRUE(fs::is_empty(base_ + "/away"));
}

// As cleaners of /tmp do: what is old goes, and with it the name is free.
TEST_F(RunDirTest, WhatAnotherMachineHasThereByNowIsNotRemoved) {
  const std::vector<std::string> files = {"ferrite.pid", "ferrite.log", "control.sock", "grant"};
  const std::string base = base_ + "/base";
  const auto inode = [](const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0) << path;
    return std::pair(info.st_dev, info.st_ino);
  };
  for (const absl::string_view cleaned : {"base", "directory", "files"}) {
    SCOPED_TRACE(cleaned);
    const auto start = [&]() -> std::unique_ptr<RunDir> {
      auto dir = RunDir::Create(base, "vm");
      EXPECT_TRUE(dir.ok()) << dir.status();
      if (dir.ok()) {
        EXPECT_TRUE((*dir)->CreateLog().ok());
        EXPECT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 7, "tcp:there:1").ok());
      }
      return dir.ok() ? *std::move(dir) : nullptr;
    };
    std::unique_ptr<RunDir> first = start();
    ASSERT_NE(first, nullptr);
    const auto listener_of_first = first->ListenOnControlSocket();
    if (cleaned == "files") {
      for (const std::string& file : files) {
        fs::remove(base + "/vm/" + file);
      }
    } else {
      fs::remove_all(cleaned == "base" ? base : base + "/vm");
    }
    std::unique_ptr<RunDir> second = start();
    ASSERT_NE(second, nullptr);
    const auto listener = second->ListenOnControlSocket();
    ASSERT_TRUE(listener.ok()) << listener.status();
    std::vector<std::pair<dev_t, ino_t>> before = {inode(base), inode(base + "/vm")};
    for (const std::string& file : files) {
      before.push_back(inode(base + "/vm/" + file));
    }
    first->KeepLog();
    first.reset();
    std::vector<std::pair<dev_t, ino_t>> after = {inode(base), inode(base + "/vm")};
    for (const std::string& file : files) {
      after.push_back(inode(base + "/vm/" + file));
    }
    EXPECT_EQ(after, before);
    EXPECT_FALSE(fs::exists(base + "/vm.failed.log"));
    const auto found = FindMachine(base, "vm");
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_TRUE(ConnectToControlSocket(*found, absl::Seconds(1)).ok());
    EXPECT_TRUE(absl::IsAlreadyExists(RunDir::Create(base, "vm").status()));
    second.reset();
    EXPECT_FALSE(fs::exists(base + "/vm"));
    fs::remove_all(base);
  }
}

// An empty directory in the place of the one that it made is somebody else's, too.
TEST_F(RunDirTest, DirectoriesThatWereMadeSinceStay) {
  const std::string base = base_ + "/x/y";
  auto dir = RunDir::Create(base, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  fs::remove_all(base_ + "/x");
  fs::create_directories(base + "/vm");
  dir->reset();
  EXPECT_TRUE(fs::exists(base + "/vm"));
}

// It ends with the limit of open files wherever it meets it, not with a guest that was handed over, and leaves nothing.
TEST_F(RunDirTest, ALackOfDescriptorsIsToldAndLeavesNothing) {
  int refused = 0;
  bool made = false;
  for (rlim_t files = 3; files < 40 && !made; ++files) {
    rlimit before = {};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit limit = {.rlim_cur = files, .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    absl::Status status = RunDir::Create(base_, "vm").status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    made = status.ok();
    if (!made) {
      ++refused;
      EXPECT_TRUE(absl::StrContains(status.message(), "ulimit -n")) << files << ": " << status;
    }
    EXPECT_TRUE(fs::is_empty(base_)) << files;
  }
  EXPECT_TRUE(made);
  EXPECT_GT(refused, 3);
}

// A FIFO would be waited for: this test would not end.
TEST_F(RunDirTest, NothingIsWaitedForInThePlaceOfAFile) {
  for (const char* name : {"ferrite.pid", "grant"}) {
    LeaveStale("vm");
    const std::string path = absl::StrCat(base_, "/vm/", name);
    fs::remove(path);
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const absl::Status found = FindMachine(base_, "vm").status();
    EXPECT_FALSE(found.ok());
    EXPECT_TRUE(ListMachines(base_).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(RunDir::Create(base_, "vm").status()));
    (void)HandedOver(base_, "vm");
    (void)ForgetHandedOver(base_, "vm");
    fs::remove_all(base_ + "/vm");
  }
}

TEST_F(RunDirTest, ErrorsNameThePath) {
  std::ofstream(base_ + "/file") << "x";
  EXPECT_TRUE(absl::StrContains(RunDir::Create(base_ + "/file", "vm").status().message(), base_ + "/file"));
  EXPECT_TRUE(absl::StrContains(RunDir::Create(base_ + "/file/sub", "vm").status().message(), base_ + "/file"));
  EXPECT_TRUE(absl::StrContains(RunDir::Create(base_, "file").status().message(), base_ + "/file"));
  fs::create_symlink("/tmp", base_ + "/link");
  EXPECT_FALSE(RunDir::Create(base_, "link").ok());
}

TEST_F(RunDirTest, SocketPathThatIsTooLongIsRefusedBeforeAnythingIsMade) {
  const std::string base = absl::StrCat(base_, "/", std::string(90, 'd'));
  const absl::Status status = RunDir::Create(base, "vm").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), base)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "107")) << status;
  EXPECT_TRUE(fs::is_empty(base_));
}

}  // namespace
}  // namespace ferrite
