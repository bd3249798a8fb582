#include "vmm/control/run_dir.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/unix_socket.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/grant_record.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

// Not under TEST_TMPDIR: its name may be too long for a socket's.
class RunDirTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-run-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    base_ = name;
  }
  void TearDown() override { fs::remove_all(base_); }

  // A machine whose monitor was killed: it was made by a child that ended without running destructors.
  void LeaveStale(const std::string& name, const std::string& handed_over_to = "") {
    const pid_t child = fork();
    if (child == 0) {
      auto dir = RunDir::Create(base_, name);
      if (!dir.ok() || !(*dir)->ListenOnControlSocket().ok()) {
        _exit(1);
      }
      std::ofstream((*dir)->log_path()) << "log";
      if (!handed_over_to.empty() && !WriteGrantRecord((*dir)->directory(), {}, 7, handed_over_to).ok()) {
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }

  std::string base_;
};

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

TEST_F(RunDirTest, AKeptLogIsNamedUntilTheNextMachineOfItsName) {
  const std::string kept = base_ + "/vm.failed.log";
  for (const char* text : {"first", "second"}) {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_FALSE(fs::exists(kept));
    std::ofstream((*dir)->log_path()) << text;
    (*dir)->KeepLog();
    dir->reset();
    EXPECT_FALSE(fs::exists(base_ + "/vm"));
    std::string found;
    std::ifstream(kept) >> found;
    EXPECT_EQ(found, text);
    const absl::Status status = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), kept)) << status;
    EXPECT_TRUE(ListMachines(base_)->empty());
  }
  auto dir = RunDir::Create(base_, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  (*dir)->KeepLog();  // there is none
  dir->reset();
  EXPECT_TRUE(fs::is_empty(base_));
}

// Where something is in the way that is not ours to replace.
TEST_F(RunDirTest, ALogIsKeptAlsoWhereItsNameIsTaken) {
  ASSERT_TRUE(fs::create_directories(base_ + "/vm.failed.log"));
  // Of other machines.
  for (const char* other : {"/vm.failed.3.failed.log", "/vm.failed.x.log", "/other.failed.5.log"}) {
    std::ofstream(base_ + other) << "other";
  }
  for (const char* text : {"first", "second"}) {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_EQ(std::distance(fs::directory_iterator(base_), fs::directory_iterator()), 5)
        << "but for the log of the one before";
    std::ofstream((*dir)->log_path()) << text;
    (*dir)->KeepLog();
    dir->reset();
    const absl::Status status = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    const std::string intro = "the last one failed, its log is ";
    const size_t at = status.message().find(intro);
    ASSERT_NE(at, absl::string_view::npos) << status;
    std::string found;
    std::ifstream(std::string(status.message().substr(at + intro.size()))) >> found;
    EXPECT_EQ(found, text) << status;
  }
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

TEST_F(RunDirTest, ListingRemovesWhatKilledMachinesLeftAndNothingElse) {
  LeaveStale("dead");
  LeaveStale("dead-with-notes");
  std::ofstream(base_ + "/dead-with-notes/notes") << "mine";
  fs::create_directory(base_ + "/unrelated");
  std::ofstream(base_ + "/unrelated/ferrite.log") << "mine";
  std::ofstream(base_ + "/file") << "mine";
  auto alive = RunDir::Create(base_, "alive");
  ASSERT_TRUE(alive.ok()) << alive.status();
  auto list = ListMachines(base_);
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(list->front().name, "alive");
  EXPECT_EQ(list->front().pid, getpid());
  EXPECT_FALSE(fs::exists(base_ + "/dead"));
  EXPECT_TRUE(fs::exists(base_ + "/dead-with-notes/notes"));
  EXPECT_TRUE(fs::exists(base_ + "/unrelated/ferrite.log"));
  EXPECT_TRUE(fs::exists(base_ + "/file"));
}

// R2: a name of a guest that may run elsewhere is not used again before somebody says so.
TEST_F(RunDirTest, KilledMachineThatWasHandedOverStaysUntilItIsForgotten) {
  LeaveStale("vm", "tcp:there:4000");
  LeaveStale("dead");
  std::ofstream(base_ + "/dead/grant.new") << "move";
  for (int i = 0; i < 2; ++i) {
    const auto list = ListMachines(base_);
    ASSERT_TRUE(list.ok()) << list.status();
    ASSERT_EQ(list->size(), 1u);
    EXPECT_EQ(list->front().name, "vm");
    ASSERT_TRUE(list->front().handed_over.has_value());
    EXPECT_EQ(list->front().handed_over->where, "tcp:there:4000");
    EXPECT_EQ(list->front().handed_over->epoch, 7u);
    EXPECT_FALSE(fs::exists(base_ + "/dead")) << "a record that was not finished was not sent either";
    const absl::Status again = RunDir::Create(base_, "vm").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(again)) << again;
    const absl::Status found = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(found)) << found;
    for (const absl::Status& status : {again, found}) {
      for (const char* words : {"is gone", "handed over to tcp:there:4000 (epoch 7)", "is lost", "stop vm --force"}) {
        EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
      }
    }
  }
  EXPECT_TRUE(fs::exists(base_ + "/vm/ferrite.log"));
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "dead")));
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
  EXPECT_TRUE(fs::is_empty(base_));
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "vm")));
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
}

TEST_F(RunDirTest, LivingMachineThatIsBeingHandedOverIsNotForgotten) {
  auto dir = RunDir::Create(base_, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  ASSERT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 1, "unix:/there").ok());
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "vm")));
  const auto found = FindMachine(base_, "vm");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->handed_over.has_value());
  dir->reset();
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(RunDirTest, RecordThatCannotBeReadCountsAsOne) {
  LeaveStale("vm", "tcp:there:4000");
  std::ofstream(base_ + "/vm/grant") << "epoch";
  EXPECT_TRUE(absl::IsFailedPrecondition(RunDir::Create(base_, "vm").status()));
  const auto list = ListMachines(base_);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->size(), 1u);
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
}

TEST_F(RunDirTest, RecordIsShownInCleanWords) {
  LeaveStale("vm", "tcp:\x1b[2Jthere:4000");
  const auto grant = HandedOver(base_, "vm");
  ASSERT_TRUE(grant.has_value());
  EXPECT_EQ(grant->where, "tcp:?[2Jthere:4000");
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
}

TEST_F(RunDirTest, ListingFollowsNoSymbolicLink) {
  const std::string victim = base_ + "/victim";
  const std::string base = base_ + "/run";
  fs::create_directory(victim);
  fs::create_directory(base);
  std::ofstream(victim + "/ferrite.pid") << "1";
  std::ofstream(victim + "/ferrite.log") << "theirs";
  fs::create_directory_symlink("../victim", base + "/link");
  auto list = ListMachines(base);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->empty());
  EXPECT_TRUE(fs::exists(victim + "/ferrite.pid"));
  EXPECT_TRUE(fs::exists(victim + "/ferrite.log"));
  EXPECT_TRUE(fs::is_symlink(base + "/link"));
}

// Whoever can read a directory can lock it.
TEST_F(RunDirTest, LockOfTheBaseItselfHoldsUpNobody) {
  LeaveStale("dead");
  const Fd holder(open(base_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  const MonotonicTime before = MonotonicTime::Now();
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
  EXPECT_TRUE(ListMachines(base_).ok());
  EXPECT_LT(MonotonicTime::Now() - before, absl::Seconds(5));
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(RunDirTest, LockThatAProcessOfOursKeepsIsNamed) {
  const std::string path = absl::StrCat(base_, "/.lock.", geteuid());
  const Fd holder(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  EXPECT_TRUE(ListMachines(base_).ok()) << "there is nothing to change";
  const absl::Status status = RunDir::Create(base_, "vm").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
}

TEST_F(RunDirTest, LockThatOthersCouldHoldIsRefused) {
  const std::string path = absl::StrCat(base_, "/.lock.", geteuid());
  std::ofstream(path).close();
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  const absl::Status status = RunDir::Create(base_, "vm").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
}

TEST_F(RunDirTest, BaseThatComesAndGoesNeverFailsAStart) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 100;
  const std::string base = base_ + "/x/run";
  std::vector<Thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(StartOrDie("starter", [&, name = absl::StrCat("vm", i)] {
      for (int round = 0; round < kRounds; ++round) {
        auto dir = RunDir::Create(base, name);
        ASSERT_TRUE(dir.ok()) << dir.status();
        EXPECT_TRUE(fs::exists((*dir)->path() + "/ferrite.pid"));
        EXPECT_TRUE(ListMachines(base).ok());
      }
    }));
  }
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

TEST_F(RunDirTest, BaseThatIsNotThereHoldsNoMachine) {
  auto list = ListMachines(base_ + "/none");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->empty());
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

TEST_F(RunDirTest, OneOfManyStartersWinsAndListingDisturbsNobody) {
  LeaveStale("vm");
  constexpr int kThreads = 8;
  constexpr int kRounds = 50;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<int> winners = 0;
    std::atomic<int> done = 0;
    std::vector<Thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.push_back(StartOrDie("starter", [&] {
        auto dir = RunDir::Create(base_, "vm");
        winners += dir.ok() ? 1 : 0;
        EXPECT_TRUE(dir.ok() || absl::IsAlreadyExists(dir.status())) << dir.status();
        (void)ListMachines(base_);
        // Nobody lets go before everybody tried.
        ++done;
        while (done < kThreads) {
          std::this_thread::yield();
        }
      }));
    }
    threads.clear();
    EXPECT_EQ(winners, 1);
  }
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(RunDirTest, StartAndEndInTurnNeverFindsAnotherError) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 200;
  std::atomic<int> winners = 0;
  std::vector<Thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(StartOrDie("starter", [&] {
      for (int round = 0; round < kRounds; ++round) {
        auto dir = RunDir::Create(base_, "vm");
        EXPECT_TRUE(dir.ok() || absl::IsAlreadyExists(dir.status())) << dir.status();
        if (dir.ok()) {
          ++winners;
          EXPECT_TRUE((*dir)->ListenOnControlSocket().ok());
        }
      }
    }));
  }
  threads.clear();
  EXPECT_GT(winners, 0);
  EXPECT_TRUE(fs::is_empty(base_));
}

}  // namespace
}  // namespace ferrite
