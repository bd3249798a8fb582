// Run directories under attack by another user of the host, as root uses them. It needs root and a second user; the
// outer machine, in which it runs as well, has both (tests/nested).
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/control/grant_record.h"
#include "vmm/control/machine_finder.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

constexpr uid_t kAttacker = 65'534;
constexpr absl::Duration kSoon = absl::Seconds(5);

// A process of the other user, until the object goes.
class Attacker {
 public:
  // Runs `prepare`; returns when it has. Then runs `again` for as long as it lives, if there is one.
  explicit Attacker(const std::function<void()>& prepare, const std::function<void()>& again = nullptr) {
    int ready[2];
    FERRITE_CHECK(pipe2(ready, O_CLOEXEC) == 0);
    const Fd read_end(ready[0]);
    Fd write_end(ready[1]);
    pid_ = fork();
    FERRITE_CHECK(pid_ >= 0);
    if (pid_ == 0) {
      (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (setgroups(0, nullptr) != 0 || setgid(kAttacker) != 0 || setuid(kAttacker) != 0) {
        _exit(1);
      }
      umask(0);
      prepare();
      (void)!write(write_end.get(), "r", 1);
      while (again) {
        again();
      }
      for (;;) {
        pause();
      }
    }
    write_end.Reset();
    char byte = 0;
    EXPECT_EQ(read(read_end.get(), &byte, 1), 1) << "nobody can be another user here";
  }
  ~Attacker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

class RunDirAttackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) {
      GTEST_SKIP() << "ATTACKS ARE NOT TESTED HERE: they need root. //tests/nested:linux_nested_test runs them";
    }
    char name[] = "/tmp/ferrite-attack-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    path_ = name;
    ASSERT_EQ(chmod(path_.c_str(), 0755), 0);
    victim_ = path_ + "/victim";
    std::ofstream(victim_) << "secret";
    ASSERT_EQ(chmod(victim_.c_str(), 0600), 0);
  }
  void TearDown() override {
    if (!path_.empty()) {
      fs::remove_all(path_);
    }
  }

  // A directory of root's to which everybody may write, as /tmp.
  std::string Shared() {
    const std::string base = path_ + "/shared";
    fs::create_directory(base);
    EXPECT_EQ(chmod(base.c_str(), 01777), 0);
    return base;
  }
  void ExpectVictimUntouched() {
    std::stringstream text;
    text << std::ifstream(victim_).rdbuf();
    EXPECT_EQ(text.str(), "secret");
    struct stat info = {};
    ASSERT_EQ(stat(victim_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0600u);
  }

  std::string path_;
  std::string victim_;  // a file of root's
};

TEST_F(RunDirAttackTest, BaseOfAnotherUserIsRefusedByNameWhateverIsInIt) {
  const std::string shared = Shared();
  for (const mode_t mode : {0700, 0755, 0777, 01777}) {
    const std::string base = shared + "/theirs";
    const Attacker attacker([&] {
      (void)mkdir(base.c_str(), mode);
      (void)mkdir((base + "/sub").c_str(), 0777);
      (void)symlink(victim_.c_str(), (base + "/vm.failed.log").c_str());
    });
    for (const std::string& below : {base, base + "/sub", base + "/sub/new"}) {
      const absl::Status status = RunDir::Create(below, "vm").status();
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_TRUE(absl::StrContains(status.message(),
                                    absl::StrCat("the directory ", base, " belongs to another user (uid 65534)")))
          << status;
    }
    EXPECT_TRUE(fs::is_empty(base + "/sub"));
    ExpectVictimUntouched();
    fs::remove_all(base);
  }
}

// As it was done: the machine's directory renamed away between its making and the opening of its files.
TEST_F(RunDirAttackTest, RenamesAndLinksInADirectoryOfAnotherUserGetNothing) {
  const std::string shared = Shared();
  const std::string base = shared + "/theirs";
  const Attacker attacker([&] { (void)mkdir(base.c_str(), 0777); },
                          [&] {
                            if (rename((base + "/vm").c_str(), (base + "/away").c_str()) == 0) {
                              (void)mkdir((base + "/vm").c_str(), 0777);
                              (void)symlink(victim_.c_str(), (base + "/vm/ferrite.log").c_str());
                              (void)symlink(victim_.c_str(), (base + "/vm/grant.new").c_str());
                            }
                          });
  for (int round = 0; round < 50; ++round) {
    EXPECT_TRUE(absl::IsFailedPrecondition(RunDir::Create(base, "vm").status()));
  }
  ExpectVictimUntouched();
}

TEST_F(RunDirAttackTest, LinkOfAnotherUserDoesNotChooseTheBase) {
  const std::string shared = Shared();
  fs::create_directory(path_ + "/roots");
  const Attacker attacker([&] { (void)symlink((path_ + "/roots").c_str(), (shared + "/link").c_str()); });
  for (const std::string& base : {shared + "/link", shared + "/link/new"}) {
    for (const absl::Status& status :
         {RunDir::Create(base, "vm").status(), ListMachines(base).status(), FindMachine(base, "vm").status()}) {
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
      EXPECT_TRUE(absl::StrContains(status.message(), shared + "/link is a symbolic link that belongs to another user"))
          << status;
    }
  }
  EXPECT_TRUE(fs::is_empty(path_ + "/roots"));
}

// In a base like /tmp others may plant whatever they like, but only under names that are free.
TEST_F(RunDirAttackTest, SharedBaseGivesOthersNothingButTheNames) {
  const std::string base = Shared();
  const auto plant = [&](const std::string& name) { (void)symlink(victim_.c_str(), (base + "/" + name).c_str()); };
  const Attacker attacker([] {},
                          [&] {
                            plant("vm");
                            plant(".lock.0");
                            plant("vm.failed.log");
                            (void)rename((base + "/vm").c_str(), (base + "/away").c_str());
                            for (const char* name : {"vm", ".lock.0", "vm.failed.log", "away"}) {
                              (void)unlink((base + "/" + name).c_str());
                            }
                          });
  int made = 0;
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(2);
  while (MonotonicTime::Now() < deadline) {
    auto dir = RunDir::Create(base, "vm");
    if (!dir.ok()) {
      // The last two: what was in the way has gone again.
      EXPECT_TRUE(absl::IsFailedPrecondition(dir.status()) || absl::IsPermissionDenied(dir.status()) ||
                  absl::IsNotFound(dir.status()))
          << dir.status();
      continue;
    }
    ++made;
    EXPECT_TRUE((*dir)->CreateLog().ok());
    EXPECT_TRUE((*dir)->ListenOnControlSocket().ok());
    EXPECT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 1, "tcp:there:1").ok());
    EXPECT_TRUE(FindMachine(base, "vm").ok());
    (*dir)->KeepLog();
  }
  RecordProperty("made", made);
  EXPECT_GT(made, 0);
  ExpectVictimUntouched();
}

TEST_F(RunDirAttackTest, SomethingUnderTheNameOfALogDoesNotLoseIt) {
  const std::string base = Shared();
  const Attacker attacker([&] {
    (void)mkdir((base + "/vm.failed.log").c_str(), 0755);
    (void)mkdir((base + "/vm.failed.log/full").c_str(), 0755);
  });
  {
    auto dir = RunDir::Create(base, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_TRUE((*dir)->CreateLog().ok());
    (*dir)->KeepLog();
  }
  const absl::Status status = FindMachine(base, "vm").status();
  EXPECT_TRUE(absl::StrContains(status.message(), "its log is " + base + "/vm.failed.")) << status;
}

TEST_F(RunDirAttackTest, LockOnABaseThatOthersMayReadHoldsUpNobody) {
  const std::string base = path_ + "/run";
  fs::create_directory(base);
  ASSERT_EQ(chmod(base.c_str(), 0755), 0);
  const Attacker attacker([&] {
    const int fd = open(base.c_str(), O_RDONLY | O_DIRECTORY);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) {
      _exit(1);
    }
  });
  const MonotonicTime before = MonotonicTime::Now();
  const auto dir = RunDir::Create(base, "vm");
  EXPECT_TRUE(dir.ok()) << dir.status();
  EXPECT_EQ(ListMachines(base)->size(), 1u);
  EXPECT_LT(MonotonicTime::Now() - before, kSoon);
}

// Takes the lock by which a machine lives.
void Live(const std::string& directory) {
  const int fd = open((directory + "/ferrite.pid").c_str(), O_RDWR | O_CREAT, 0666);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) != 0) {
    _exit(1);
  }
}

TEST_F(RunDirAttackTest, WhatAnotherUserPutsInThePlaceOfAFileHoldsUpNobody) {
  const std::string base = Shared();
  const auto socket_at = [](const std::string& path, int queue) {
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    const auto* where = reinterpret_cast<const sockaddr*>(&address);
    if (bind(listener, where, sizeof(address)) != 0 || listen(listener, queue) != 0) {
      _exit(1);
    }
    while (connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), where, sizeof(address)) == 0) {
    }
  };
  const Attacker attacker([&] {
    for (const char* name : {"pid", "full"}) {
      (void)mkdir((base + "/" + name).c_str(), 0755);
    }
    (void)mkfifo((base + "/pid/ferrite.pid").c_str(), 0666);
    Live(base + "/full");
    socket_at(base + "/full/control.sock", 0);
  });
  const MonotonicTime before = MonotonicTime::Now();
  EXPECT_TRUE(absl::IsFailedPrecondition(FindMachine(base, "pid").status()));
  const auto list = ListMachines(base);
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(list->front().name, "full");
  const auto found = FindMachine(base, "full");
  ASSERT_TRUE(found.ok()) << found.status();
  const absl::Status status = ConnectToControlSocket(*found, absl::Milliseconds(50)).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_LT(MonotonicTime::Now() - before, kSoon);
}

// Or root's `stop` of a machine of theirs would stop one of root's.
TEST_F(RunDirAttackTest, MachineOfAnotherUserDoesNotLeadToOneOfRoots) {
  const std::string roots = path_ + "/run";
  const auto dir = RunDir::Create(roots, "web");
  ASSERT_TRUE(dir.ok()) << dir.status();
  const auto listener = (*dir)->ListenOnControlSocket();
  ASSERT_TRUE(listener.ok()) << listener.status();
  const std::string theirs = Shared() + "/theirs";
  const Attacker attacker([&] {
    (void)mkdir(theirs.c_str(), 0755);
    (void)mkdir((theirs + "/vm").c_str(), 0755);
    Live(theirs + "/vm");
    (void)symlink((roots + "/web/control.sock").c_str(), (theirs + "/vm/control.sock").c_str());
    (void)symlink((roots + "/web").c_str(), (theirs + "/other").c_str());
    (void)symlink(roots.c_str(), (theirs + "/base").c_str());
  });
  // Root may look at the machines of others.
  const auto found = FindMachine(theirs, "vm");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(ConnectToControlSocket(*found, kSoon).status()));
  EXPECT_TRUE(absl::IsNotFound(FindMachine(theirs, "other").status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(FindMachine(theirs + "/base", "web").status()));
  EXPECT_TRUE(FindMachine(roots, "web").ok());
}

}  // namespace
}  // namespace ferrite
