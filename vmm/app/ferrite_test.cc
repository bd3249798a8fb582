// The ferrite program as people use it: wrong input first, then whole machines on KVM.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/raw_client.h"
#include "vmm/app/exit_codes.h"
#include "vmm/control/client.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr uid_t kNobody = 65'534;

class FerriteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-test-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    base_ = directory_ + "/run";
  }
  void TearDown() override { fs::remove_all(directory_); }

  static std::string Guest(absl::string_view name) { return absl::StrCat("tests/guest/", name); }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = absl::StrCat(directory_, "/", name);
    std::ofstream(path) << text;
    return path;
  }
  std::vector<std::string> Words(absl::string_view words) {
    std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
    list.push_back("--run-dir");
    list.push_back(base_);
    return list;
  }
  Finished Ferrite(absl::string_view words) { return RunFerrite(Words(words)); }

  void ExpectNothingLeft() {
    EXPECT_TRUE(!fs::exists(base_) || fs::is_empty(base_)) << fs::directory_iterator(base_)->path();
  }
  // The rule for every wrong input: one line that names the thing, an exit code that is not 0, nothing left behind.
  void ExpectFails(const std::string& words, int exit_code, const std::string& named) {
    const Finished result = Ferrite(words);
    EXPECT_EQ(result.exit_code, exit_code) << words << "\n" << result.err;
    EXPECT_TRUE(absl::StartsWith(result.err, "ferrite: ")) << words << "\n" << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << words << "\n" << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, named)) << words << "\n" << result.err;
    EXPECT_EQ(result.out, "") << words;
    ExpectNothingLeft();
  }

  std::string directory_;
  std::string base_;
};

TEST_F(FerriteTest, WrongFilesAreNamed) {
  const std::string kernel = Write("kernel", "no kernel");
  const std::string missing = directory_ + "/missing";
  ExpectFails("run --kernel " + missing, kExitFailure, missing);
  ExpectFails("run --kernel " + directory_, kExitFailure, directory_ + " is a directory");
  ExpectFails(absl::StrCat("run --kernel ", kernel, " --initrd ", missing), kExitFailure, missing);
  ExpectFails(absl::StrCat("run --kernel ", kernel, " --initrd ", directory_), kExitFailure, "is a directory");
  ExpectFails(absl::StrCat("run --kernel ", kernel, " --disk path=", missing), kExitFailure, missing);
  ExpectFails(absl::StrCat("run --kernel ", kernel, " --disk path=", directory_), kExitFailure, "is a directory");
}

TEST_F(FerriteTest, WordsOfAFailureAreClean) {
  const std::string named = "?[2J?]0;x?";
  ExpectFails("run --kernel /\x1b[2J\x1b]0;x\a", kExitFailure, named);
  ExpectFails("move vm tcp:\x1b[2J\x1b]0;x\a:1", kExitUsage, named);
  ExpectFails("ps --\x1b[2J\x1b]0;x\a", kExitUsage, named);
}

TEST_F(FerriteTest, MoreMemoryThanTheHostHasIsRefused) {
  ExpectFails(absl::StrCat("run --mem 4T --kernel ", Write("kernel", "x")), kExitFailure, "--mem: 4T");
}

TEST_F(FerriteTest, UnknownMachinesHaveTheirOwnExitCode) {
  for (const char* command : {"info", "pause", "resume", "balloon", "console", "events", "reset", "stop"}) {
    ExpectFails(absl::StrCat(command, " nobody"), kExitNoSuchMachine, "no machine named nobody");
  }
}

TEST_F(FerriteTest, ListOfNoMachinesIsEmpty) {
  ASSERT_TRUE(fs::create_directory(base_));
  EXPECT_EQ(Json::parse(Ferrite("ps --json").out), Json::array());
  EXPECT_EQ(Ferrite("ps").exit_code, kExitOk);
}

// As when another user has names in a base that is shared.
TEST_F(FerriteTest, ListIsNotHeldUpByMachinesThatDoNotAnswer) {
  constexpr int kMachines = 120;
  std::vector<std::unique_ptr<RunDir>> machines;
  std::vector<Fd> sockets;
  for (int i = 0; i < kMachines; ++i) {
    auto machine = RunDir::Create(base_, absl::StrCat("vm", i));
    ASSERT_TRUE(machine.ok()) << machine.status();
    auto socket = (*machine)->ListenOnControlSocket();
    ASSERT_TRUE(socket.ok()) << socket.status();
    machines.push_back(*std::move(machine));
    sockets.push_back(*std::move(socket));
  }
  const MonotonicTime start = MonotonicTime::Now();
  const Finished listed = Ferrite("ps --json");
  // Two seconds for each of them would be four minutes.
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(60));
  EXPECT_EQ(listed.exit_code, kExitOk) << listed.err;
  const Json list = Json::parse(listed.out);
  ASSERT_EQ(list.size(), static_cast<size_t>(kMachines));
  int not_asked = 0;
  for (const Json& machine : list) {
    EXPECT_TRUE(machine["state"] == "unreachable" || machine["state"] == "not-asked") << machine;
    not_asked += machine["state"] == "not-asked" ? 1 : 0;
  }
  EXPECT_LT(not_asked, kMachines);
  EXPECT_GT(not_asked, 0);
  EXPECT_TRUE(absl::StrContains(listed.err, absl::StrCat(not_asked, " machines were not asked"))) << listed.err;
}

TEST_F(FerriteTest, RunDirectoryThatIsNotThereIsNoEmptyList) {
  for (const char* command : {"ps", "ps --json"}) {
    ExpectFails(command, kExitFailure, "run directory " + base_ + " does not exist");
  }
  ExpectFails("info vm", kExitNoSuchMachine, "no machine named vm: run directory " + base_ + " does not exist");
}

TEST_F(FerriteTest, LimitOfOpenFilesIsNamedWithItsRemedy) {
  FerriteProcess ferrite(Words("run --mem 16M --console none --kernel " + Guest("hello")), /*user=*/0, [] {
    const rlimit limit = {.rlim_cur = 6, .rlim_max = 6};
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  });
  const Finished result = ferrite.Wait();
  EXPECT_EQ(result.exit_code, kExitFailure);
  const std::vector<std::string> parts = absl::StrSplit(result.err, "ulimit -n");
  EXPECT_EQ(parts.size(), 2u) << result.err;
  ExpectNothingLeft();
}

TEST_F(FerriteTest, OutputThatCannotBeWrittenIsAnError) {
  ASSERT_TRUE(fs::create_directory(base_));
  for (const char* command : {"ps --json", "ps", "version", "doctor", "run --help"}) {
    FerriteProcess ferrite(Words(command), /*user=*/0, [] { (void)dup2(open("/dev/full", O_WRONLY), STDOUT_FILENO); });
    const Finished result = ferrite.Wait();
    EXPECT_EQ(result.exit_code, kExitFailure) << command;
    EXPECT_TRUE(absl::StrContains(result.err, "standard output")) << command << "\n" << result.err;
  }
}

TEST_F(FerriteTest, RunDirectoryMustBeADirectory) {
  base_ = Write("file", "x");
  for (const char* command : {"ps", "info vm"}) {
    const Finished result = Ferrite(command);
    EXPECT_EQ(result.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(result.err, base_ + " is not a directory; choose another with --run-dir"))
        << result.err;
  }
}

// To open a FIFO is to wait for who writes to it.
TEST_F(FerriteTest, NothingIsWaitedForInAMachinesDirectory) {
  fs::create_directories(base_ + "/vm");
  ASSERT_EQ(mkfifo((base_ + "/vm/ferrite.pid").c_str(), 0600), 0);
  for (const char* command : {"info vm", "stop vm", "stop vm --force"}) {
    const Finished result = Ferrite(command);
    EXPECT_EQ(result.exit_code, kExitFailure) << command;
    EXPECT_TRUE(absl::StrContains(result.err, base_ + "/vm/ferrite.pid is not a regular file")) << result.err;
  }
  EXPECT_EQ(Ferrite("ps").exit_code, kExitOk);
}

TEST_F(FerriteTest, LockOnTheRunDirectoryHoldsUpNobody) {
  ASSERT_TRUE(fs::create_directory(base_));
  const Fd holder(open(base_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  const MonotonicTime before = MonotonicTime::Now();
  EXPECT_EQ(Ferrite("ps").exit_code, kExitOk);
  EXPECT_LT(MonotonicTime::Now() - before, absl::Seconds(8)) << "a lock that was waited for";
}

TEST_F(FerriteTest, VersionIsPrinted) {
  EXPECT_TRUE(absl::StartsWith(Ferrite("version").out, "ferrite "));
  EXPECT_TRUE(Json::parse(Ferrite("version --json").out).contains("version"));
}

TEST_F(FerriteTest, DoctorTellsOfThisHost) {
  EXPECT_TRUE(Json::parse(Ferrite("doctor --json").out).contains("host_runs_linux"));
  EXPECT_EQ(Ferrite("doctor").exit_code, kExitOk);
}

#if !defined(ABSL_HAVE_ADDRESS_SANITIZER)  // Its search for leaks needs procfs itself.
// As in a chroot or a container of somebody's own making.
TEST_F(FerriteTest, ThatProcfsIsMissingIsSaidInWords) {
  const auto without = [this](absl::string_view words) {
    return FerriteProcess(Words(words), /*user=*/0,
                          [] {
                            const int user = geteuid() == 0 ? 0 : CLONE_NEWUSER;
                            if (unshare(CLONE_NEWNS | user) != 0 ||
                                mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
                                mount("none", "/proc", "tmpfs", 0, nullptr) != 0) {
                              _exit(125);
                            }
                          })
        .Wait();
  };
  for (const char* command : {"ps", "run --kernel x", "info vm"}) {
    const Finished result = without(command);
    EXPECT_EQ(result.exit_code, kExitFailure) << result.err;
    // A sanitizer misses it, too, and says so first.
    EXPECT_TRUE(absl::EndsWith(
        result.err, "ferrite: no procfs is mounted at /proc, which ferrite needs: mount -t proc proc /proc\n"))
        << result.err;
  }
  EXPECT_EQ(without("version").exit_code, kExitOk);
  const Finished doctor = without("doctor");
  EXPECT_EQ(doctor.exit_code, kExitOk) << doctor.err;
  EXPECT_TRUE(absl::StrContains(doctor.out, "not mounted at /proc")) << doctor.out;
}
#endif

// ---- From here on with KVM ----

class MachineTest : public FerriteTest {
 protected:
  void TearDown() override {
    for (const std::string& name : detached_) {
      (void)Ferrite("stop " + name);
    }
    ExpectNothingLeft();
    FerriteTest::TearDown();
  }

  // A machine in the background that counts until it is stopped.
  void Start(const std::string& name, const std::string& more = "") {
    const Finished result =
        Ferrite(absl::StrCat("run --detach --mem 64M --kernel ", Guest("count"), " --name ", name, " ", more));
    ASSERT_EQ(result.exit_code, kExitOk) << result.err;
    EXPECT_TRUE(absl::StartsWith(result.out, name + " ")) << result.out;
    EXPECT_EQ(result.err, "");
    detached_.push_back(name);
  }
  std::string State(const std::string& name) {
    const Finished info = Ferrite("info --json " + name);
    return info.exit_code == kExitOk ? Json::parse(info.out).value("state", "") : "";
  }
  // Until the machine, in the foreground, can be asked.
  void WaitForMachine(const std::string& name) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (State(name) != "running") {
      ASSERT_LT(MonotonicTime::Now(), deadline) << name;
      std::this_thread::yield();
    }
  }

  // Until the process has a handler of its own for SIGTERM, or none any more.
  static void WaitForHandler(const FerriteProcess& process, bool there) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    const auto catches = [&] {
      std::ifstream status(absl::StrCat("/proc/", process.pid(), "/status"));
      for (std::string line; std::getline(status, line);) {
        if (absl::StartsWith(line, "SigCgt:")) {
          return (std::stoull(line.substr(7), nullptr, 16) >> (SIGTERM - 1) & 1) != 0;
        }
      }
      return false;
    };
    while (catches() != there) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      std::this_thread::yield();
    }
  }

  std::vector<std::string> detached_;
};

// Who can open an image can lock it in the instant in which a move lets go of it.
TEST_F(MachineTest, DiskThatOthersCanOpenIsWarnedOf) {
  const std::string image = Write("image", "");
  fs::resize_file(image, 1 << 20);
  const std::string kernel = Write("kernel", "no kernel");
  const auto warns = [&](mode_t directory, mode_t file, const char* more, const char* who) {
    ASSERT_EQ(chmod(directory_.c_str(), directory), 0);
    ASSERT_EQ(chmod(image.c_str(), file), 0);
    const Finished result = Ferrite(absl::StrCat("run --mem 64M --kernel ", kernel, " --disk path=", image, more));
    EXPECT_EQ(result.exit_code, kExitFailure) << result.err;
    const std::string warning = absl::StrCat("ferrite: warning: --disk: ", image, " can be opened by ");
    EXPECT_EQ(absl::StrContains(result.err, warning), *who != '\0') << result.err;
    EXPECT_EQ(absl::StrContains(result.err, absl::StrCat(warning, who)), *who != '\0') << result.err;
    EXPECT_EQ(absl::StrContains(result.err, absl::StrCat("chmod 600 ", image, "\n")), *who != '\0') << result.err;
  };
  warns(0755, 0644, "", "others: ");
  warns(0755, 0660, "", "its group: ");
  warns(0710, 0644, "", "its group: ");
  warns(0755, 0600, "", "");
  warns(0700, 0666, "", "");
  warns(0755, 0644, ",ro", "");
  warns(0755, 0622, ",ro", "others: ");
}

TEST_F(MachineTest, GuestThatPowersOffEndsTheRunWithAllItsOutput) {
  const Finished result = Ferrite(absl::StrCat("run --mem 64M --kernel ", Guest("hello")));
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.out, "event=hello")) << result.out;
  EXPECT_EQ(result.err, "");
}

TEST_F(MachineTest, WhatCannotStartIsNamedAndLeavesNothing) {
  const std::string rubbish = Write("rubbish", std::string(100'000, 'x'));
  const std::string hello = Guest("hello");
  ExpectFails("run --kernel " + rubbish, kExitFailure, rubbish);
  ExpectFails("run --detach --kernel " + rubbish, kExitFailure, rubbish);
  ExpectFails(absl::StrCat("run --kernel ", hello, " --console unix:", directory_), kExitFailure, directory_);
  ExpectFails(absl::StrCat("run --kernel ", hello, " --console unix:/", std::string(120, 'x')), kExitFailure,
              "limit is 107");
  ExpectFails(absl::StrCat("run --kernel ", hello, " --console file:", directory_), kExitFailure, "--console");
  ExpectFails(absl::StrCat("run --kernel ", hello, " --log ", directory_), kExitFailure, "--log: open " + directory_);
  const std::string nowhere = directory_ + "/nowhere";
  ExpectFails(absl::StrCat("run --kernel ", hello, " --log ", nowhere, "/log"), kExitFailure, "--log: open " + nowhere);
  EXPECT_FALSE(fs::exists(nowhere));
  const std::string fifo = directory_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  ExpectFails(absl::StrCat("run --kernel ", hello, " --log ", fifo), kExitFailure, "--log: " + fifo + " is not a");
  ExpectFails(absl::StrCat("run --kernel ", hello, " --memory-backing hugetlb-1G --mem 64G"), kExitFailure, "");
  const std::string base = base_;
  base_ = absl::StrCat(directory_, "/", std::string(100, 'd'));
  ExpectFails("run --kernel " + hello, kExitFailure, "limit is 107");
  base_ = base;
}

TEST_F(MachineTest, DetachedMachineIsListedShownPausedResumedAndStopped) {
  Start("one", "--balloon 0 --rng --cpus 2");
  Start("two");
  const Json list = Json::parse(Ferrite("ps --json").out);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["name"], "one");
  EXPECT_EQ(list[1]["name"], "two");
  const Json info = Json::parse(Ferrite("info one --json").out);
  EXPECT_EQ(info["cpus"], 2);
  EXPECT_EQ(info["memory_bytes"], 64 << 20);
  EXPECT_EQ(info["state"], "running");
  EXPECT_EQ(info["balloon"]["actual_bytes"], 0);
  EXPECT_TRUE(absl::StrContains(Ferrite("info one").out, "64M (anon)"));
  EXPECT_TRUE(absl::StrContains(Ferrite("info one").out, "ms after the program's start"));
  EXPECT_TRUE(absl::StrContains(Ferrite("ps").out, "two"));

  EXPECT_EQ(Ferrite("pause one").exit_code, kExitOk);
  EXPECT_EQ(State("one"), "paused");
  EXPECT_EQ(State("two"), "running");
  EXPECT_EQ(Ferrite("resume one").exit_code, kExitOk);
  EXPECT_EQ(State("one"), "running");
  EXPECT_EQ(Ferrite("reset one").exit_code, kExitOk);
  EXPECT_EQ(Ferrite("stop one").exit_code, kExitOk);
  // The name is free as soon as `stop` returned.
  Start("one");
}

// The monitor has no process id there.
TEST_F(MachineTest, StopFromAnotherPidNamespaceWaitsForTheEnd) {
  Start("vm");
  const int pid = Json::parse(Ferrite("info vm --json").out)["pid"];
  const Fd monitor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  ASSERT_TRUE(monitor.valid());
  // A watcher that does not take the last event makes the end a few seconds longer.
  auto watcher = ControlClient::ConnectToMachine(base_, "vm");
  ASSERT_TRUE(watcher.ok()) << watcher.status();
  ASSERT_EQ((*watcher)->StartWatching(), absl::OkStatus());
  FerriteProcess stop(Words("stop vm"), /*user=*/0, [] {
    const int user = geteuid() == 0 ? 0 : CLONE_NEWUSER;
    if (unshare(CLONE_NEWPID | user) != 0) {
      _exit(125);
    }
    // It is its children that are in there.
    if (const pid_t child = fork(); child != 0) {
      int status = 0;
      _exit(waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : 124);
    }
  });
  const Finished result = stop.Wait();
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  detached_.clear();
  ExpectNothingLeft();
  // What follows the last thing that is seen from there is short.
  pollfd polled = {monitor.get(), POLLIN, 0};
  EXPECT_EQ(poll(&polled, 1, 1000), 1) << "it has not ended";
}

TEST_F(MachineTest, LiveMachineKeepsItsName) {
  Start("vm");
  const Finished second = Ferrite(absl::StrCat("run --name vm --mem 64M --kernel ", Guest("count")));
  EXPECT_EQ(second.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(second.err, "a machine named vm is running already")) << second.err;
  EXPECT_EQ(State("vm"), "running");
}

TEST_F(MachineTest, DiskInUseIsRefusedAndTheFirstMachineRunsOn) {
  const std::string image = Write("image", std::string(1 << 20, '\0'));
  Start("vm", "--disk id=root,path=" + image);
  const Finished second =
      Ferrite(absl::StrCat("run --mem 64M --name other --disk path=", image, " --kernel ", Guest("count")));
  EXPECT_EQ(second.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(second.err, image)) << second.err;
  EXPECT_EQ(second.err.find('\n'), second.err.size() - 1) << second.err;
  EXPECT_EQ(State("vm"), "running");
  EXPECT_FALSE(fs::exists(base_ + "/other"));
}

// A limit of 1 MiB for what the program writes. (Its memory is anonymous, for a memfd is a file, too.)
void LimitFileSize() {
  const rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
  (void)setrlimit(RLIMIT_FSIZE, &limit);
}

TEST_F(MachineTest, DiskWriteBeyondTheLimitOfFilesCostsTheGuestAnErrorOnly) {
  const std::string image = Write("image", "");
  fs::resize_file(image, 4 << 20);
  FerriteProcess run(Words(absl::StrCat("run --name vm --mem 64M --memory-backing anon --disk path=", image,
                                        " --kernel ", Guest("virtio"), " --cmdline rounds=2")),
                     /*user=*/0, LimitFileSize);
  const Finished result = run.Wait();
  // The guest powered off: it got an answer to every request.
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.out, "what=status")) << result.out;
  EXPECT_TRUE(absl::StrContains(result.err, image + ": File too large")) << result.err;
  ExpectNothingLeft();
}

TEST_F(MachineTest, LogThatMayNotGrowIsToldOnceAndTheMachineRuns) {
  const std::string path = Write("log", std::string(1 << 20, '\n'));
  FerriteProcess run(
      Words(absl::StrCat("run --name vm --mem 64M --memory-backing anon --log ", path, " --kernel ", Guest("hello"))),
      /*user=*/0, LimitFileSize);
  const Finished result = run.Wait();
  EXPECT_EQ(result.exit_code, kExitOk);
  EXPECT_TRUE(absl::StartsWith(result.err, "ferrite: warning: the log is not complete: write " + path)) << result.err;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  EXPECT_TRUE(absl::StrContains(result.out, "event=hello")) << result.out;
}

TEST_F(MachineTest, LimitOfFilesIsNamedByWhatDoesNotFit) {
  FerriteProcess run(Words(absl::StrCat("run --name vm --mem 64M --memory-backing memfd --kernel ", Guest("hello"))),
                     /*user=*/0, LimitFileSize);
  const Finished result = run.Wait();
  EXPECT_EQ(result.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(result.err, "File too large")) << result.err;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  ExpectNothingLeft();
}

TEST_F(MachineTest, BalloonWithoutADriverReachesNothing) {
  Start("vm", "--balloon 0");
  const Finished waited = Ferrite("balloon vm 16M --wait --timeout 1");
  EXPECT_EQ(waited.exit_code, kExitDeadline) << waited.err;
  EXPECT_EQ(Json::parse(Ferrite("balloon vm --json").out)["target_bytes"], 16 << 20);
  EXPECT_EQ(Ferrite("balloon vm 65M").exit_code, kExitFailure);
  Start("without");
  EXPECT_TRUE(absl::StrContains(Ferrite("balloon without").err, "no balloon"));
}

TEST_F(MachineTest, KilledMonitorLeavesANameThatCanBeUsedAgain) {
  Start("vm");
  const int pid = Json::parse(Ferrite("info vm --json").out)["pid"];
  const Fd monitor(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  ASSERT_EQ(kill(pid, SIGKILL), 0);
  pollfd polled = {monitor.get(), POLLIN, 0};
  ASSERT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
  EXPECT_EQ(Ferrite("info vm").exit_code, kExitNoSuchMachine);
  Start("vm");
  EXPECT_EQ(State("vm"), "running");
}

// A cleaner of old files took the run directory, or what is in it, and the name was used again.
TEST_F(MachineTest, MonitorThatEndsRemovesNothingOfTheNextOfItsName) {
  for (const absl::string_view cleaned : {"directory", "files"}) {
    SCOPED_TRACE(cleaned);
    const std::string socket = absl::StrCat(base_, ".console");
    const std::string run =
        absl::StrCat("run --name vm --mem 64M --kernel ", Guest("count"), " --console unix:", socket);
    FerriteProcess first(Words(run));
    WaitForMachine("vm");
    for (const fs::directory_entry& file : fs::directory_iterator(base_ + "/vm")) {
      fs::remove(file);
    }
    if (cleaned == "directory") {
      fs::remove(base_ + "/vm");
    }
    fs::remove(socket);
    FerriteProcess second(Words(run));
    WaitForMachine("vm");
    const auto inodes = [&] {
      std::vector<ino_t> all;
      for (const std::string& path :
           {base_ + "/vm", base_ + "/vm/ferrite.pid", base_ + "/vm/ferrite.log", base_ + "/vm/control.sock", socket}) {
        struct stat info = {};
        EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
        all.push_back(info.st_ino);
      }
      return all;
    };
    const std::vector<ino_t> before = inodes();
    first.Signal(SIGTERM);
    EXPECT_EQ(first.Wait().exit_code, kExitOk);
    EXPECT_EQ(inodes(), before);
    EXPECT_EQ(Json::parse(Ferrite("info vm --json").out)["pid"], second.pid());
    EXPECT_TRUE(absl::StrContains(Ferrite("ps").out, "vm"));
    EXPECT_EQ(Ferrite("stop vm").exit_code, kExitOk);
    EXPECT_EQ(second.Wait().exit_code, kExitOk);
    ExpectNothingLeft();
    EXPECT_FALSE(fs::exists(socket));
  }
}

TEST_F(MachineTest, SignalsStopTheMachineAndLeaveNothing) {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    FerriteProcess run(Words(absl::StrCat("run --name vm --mem 64M --kernel ", Guest("count"))));
    WaitForMachine("vm");
    run.Signal(signal);
    const Finished result = run.Wait();
    EXPECT_EQ(result.exit_code, kExitOk) << signal << "\n" << result.err;
    EXPECT_EQ(result.err, "");
    ExpectNothingLeft();
  }
}

TEST_F(MachineTest, SignalDuringTheStartEndsIt) {
  ASSERT_TRUE(fs::create_directory(base_));
  const std::string lock_path = absl::StrCat(base_, "/.lock.", geteuid());
  Fd lock(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(flock(lock.get(), LOCK_EX), 0);
  FerriteProcess run(Words(absl::StrCat("run --name vm --mem 64M --kernel ", Guest("count"))));
  // It takes signals before it waits for the lock.
  WaitForHandler(run, true);
  run.Signal(SIGTERM);
  lock.Reset();
  const Finished result = run.Wait();
  EXPECT_EQ(result.exit_code, kExitFailure) << result.err;
  // Or, on a slow machine, that the lock was held for too long.
  EXPECT_TRUE(absl::StrContains(result.err, "SIGTERM") || absl::StrContains(result.err, base_)) << result.err;
  EXPECT_EQ(result.out, "");
  fs::remove(lock_path);
}

#if !defined(ABSL_HAVE_THREAD_SANITIZER)  // It hands a signal over when the call that is stuck has returned.
TEST_F(MachineTest, TheSecondSignalEndsAStartThatIsStuck) {
  // A pipe that is full, and that nobody reads: it tells where it waits, which nobody takes.
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const Fd unread(ends[0]);
  const Fd full(ends[1]);
  const std::string bytes(4096, 'x');
  while (write(full.get(), bytes.data(), bytes.size()) > 0 || write(full.get(), bytes.data(), 1) > 0) {
  }
  ASSERT_EQ(fcntl(full.get(), F_SETFL, 0), 0);
  FerriteProcess receive(Words(absl::StrCat("receive --name vm --listen unix:", directory_, "/listen")), /*user=*/0,
                         [&full] { (void)dup2(full.get(), STDOUT_FILENO); });
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (State("vm") != "created") {
    ASSERT_LT(MonotonicTime::Now(), deadline);
    std::this_thread::yield();
  }
  receive.Signal(SIGTERM);
  WaitForHandler(receive, false);
  const MonotonicTime second = MonotonicTime::Now();
  receive.Signal(SIGTERM);
  EXPECT_EQ(receive.Wait().exit_code, -1);
  EXPECT_LT(MonotonicTime::Now() - second, absl::Seconds(30)) << "only the test ended it";
  fs::remove_all(base_);
}
#endif

TEST_F(MachineTest, NoCallThatWaitsHoldsUpASignal) {
  FerriteProcess run(
      Words(absl::StrCat("run --name vm --mem 64M --balloon 0 --console none --kernel ", Guest("count"))));
  WaitForMachine("vm");
  std::vector<std::unique_ptr<RawClient>> clients;
  uint32_t describe = 0;
  for (int i = 0; i < 124; ++i) {
    clients.push_back(std::make_unique<RawClient>(base_ + "/vm/control.sock"));
    for (int call = 0; call < 60; ++call) {
      // The guest has no driver for it.
      clients.back()->SetBalloon(16 << 20, /*wait_ms=*/3'600'000);
    }
    describe = clients.back()->Describe();
  }
  // All of them were read.
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  for (const auto& client : clients) {
    auto answer = client->NextAnswer(deadline);
    while (answer.has_value() && answer->number != describe) {
      answer = client->NextAnswer(deadline);
    }
    ASSERT_TRUE(answer.has_value());
  }
  const MonotonicTime start = MonotonicTime::Now();
  run.Signal(SIGTERM);
  const Finished result = run.Wait();
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(10));
}

TEST_F(MachineTest, EventsAreToldUntilTheEnd) {
  Start("vm");
  FerriteProcess events(Words("events vm --json"));
  // The subscription is there when the first event after it is printed; a pause before it is told to nobody.
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(30);
  while (events.OutputSoFar().empty() && MonotonicTime::Now() < deadline) {
    ASSERT_EQ(Ferrite("pause vm").exit_code, kExitOk);
    ASSERT_EQ(Ferrite("resume vm").exit_code, kExitOk);
  }
  ASSERT_EQ(Ferrite("stop vm").exit_code, kExitOk);
  detached_.clear();
  const Finished result = events.Wait();
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  const std::vector<std::string> lines = absl::StrSplit(result.out, '\n', absl::SkipEmpty());
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(Json::parse(lines.back())["event"], "stopped");
}

TEST_F(MachineTest, OutputGoesToAFile) {
  const std::string path = directory_ + "/console";
  const Finished result = Ferrite(absl::StrCat("run --mem 64M --console file:", path, " --kernel ", Guest("hello")));
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "");
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_TRUE(absl::StrContains(text.str(), "event=hello")) << text.str();
}

TEST_F(MachineTest, OutputEndsAtTheLimitOfItsFile) {
  const std::string path = Write("console", std::string(5000, 'x'));
  const Finished result =
      Ferrite(absl::StrCat("run --mem 64M --console file:", path, ",max=4K --kernel ", Guest("hello")));
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, path + " has reached its limit of 4K")) << result.err;
  EXPECT_EQ(fs::file_size(path), 5000u);
}

TEST_F(MachineTest, LockOnTheRunDirectoryHoldsUpNoStart) {
  ASSERT_TRUE(fs::create_directory(base_));
  const Fd holder(open(base_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  EXPECT_EQ(Ferrite("run --mem 64M --kernel " + Guest("hello")).exit_code, kExitOk);
}

TEST_F(MachineTest, RunDirectoryInWhichOthersRenameIsRefused) {
  const std::string parent = directory_ + "/open";
  fs::create_directory(parent);
  ASSERT_EQ(chmod(parent.c_str(), 0777), 0);
  const std::string base = std::exchange(base_, parent + "/run");
  ExpectFails("run --mem 64M --kernel " + Guest("hello"), kExitFailure, parent + " (its mode is 0777");
  ExpectFails("run --detach --mem 64M --kernel " + Guest("hello"), kExitFailure, parent + " (its mode is 0777");
  EXPECT_TRUE(fs::is_empty(parent));
  base_ = base;
}

TEST_F(MachineTest, WhatTheCallerHasOpenAndInItsEnvironmentIsNotKept) {
  for (const bool detach : {false, true}) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const Fd read_end(ends[0]);
    Fd write_end(ends[1]);
    FerriteProcess run(Words(absl::StrCat("run --debuggable --name vm --mem 64M --kernel ", Guest("count"),
                                          detach ? " --detach" : "")),
                       /*user=*/0, [&] {
                         (void)dup2(write_end.get(), 77);  // not close-on-exec
                         (void)setenv("FERRITE_TEST_SECRET", "hunter2", 1);
                       });
    write_end.Reset();
    WaitForMachine("vm");
    const int pid = Json::parse(Ferrite("info vm --json").out)["pid"];
    // Its end is closed: nobody has one.
    pollfd polled = {read_end.get(), POLLIN, 0};
    EXPECT_EQ(poll(&polled, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
    std::stringstream shown;
    shown << std::ifstream(absl::StrCat("/proc/", pid, "/environ")).rdbuf();
    EXPECT_FALSE(shown.str().empty()) << "nobody may look at it";
    EXPECT_EQ(shown.str().find_first_not_of('\0'), std::string::npos);
    EXPECT_EQ(Ferrite("stop vm").exit_code, kExitOk);
    EXPECT_EQ(run.Wait().exit_code, kExitOk);
  }
}

TEST_F(MachineTest, LogStaysWhereItWasAskedFor) {
  const std::string path = directory_ + "/log";
  EXPECT_EQ(Ferrite(absl::StrCat("run --mem 64M --log ", path, " --kernel ", Guest("hello"))).exit_code, kExitOk);
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  EXPECT_TRUE(absl::StrContains(text.str(), "machine stopped: power-off")) << text.str();
}

TEST_F(MachineTest, GuestFaultIsToldOnceAndIsOneRecordOfTheLog) {
  const std::string path = directory_ + "/log";
  const Finished result =
      Ferrite(absl::StrCat("run --mem 64M --log ", path, " --kernel ", Guest("fault"), " --cmdline do=triple-fault"));
  EXPECT_EQ(result.exit_code, kExitGuestFault);
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  for (const std::string& told : {result.err, text.str()}) {
    const std::vector<std::string> parts = absl::StrSplit(told, "rip ");
    EXPECT_EQ(parts.size(), 2u) << told;
  }
  EXPECT_TRUE(absl::StrContains(text.str(), "info machine stopped: guest fault: vCPU 0: ")) << text.str();
  for (const absl::string_view line : absl::StrSplit(text.str(), '\n', absl::SkipEmpty())) {
    EXPECT_TRUE(absl::StartsWith(line, "20") || absl::StartsWith(line, "    ")) << line;
  }
}

TEST_F(MachineTest, GuestFaultOfADetachedMachineIsFoundInTheLogThatItLeaves) {
  const std::string run =
      absl::StrCat("run --detach --name vm --mem 64M --kernel ", Guest("fault"), " --cmdline do=triple-fault");
  ASSERT_EQ(Ferrite(run).exit_code, kExitOk);
  const std::string kept = base_ + "/vm.failed.log";
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (fs::exists(base_ + "/vm")) {
    ASSERT_LT(MonotonicTime::Now(), deadline);
    std::this_thread::yield();
  }
  std::stringstream text;
  text << std::ifstream(kept).rdbuf();
  EXPECT_TRUE(absl::StrContains(text.str(), "machine stopped: guest fault: vCPU 0: ")) << text.str();
  for (const char* command : {"info vm", "console vm"}) {
    const Finished result = Ferrite(command);
    EXPECT_EQ(result.exit_code, kExitNoSuchMachine);
    EXPECT_TRUE(absl::StrContains(result.err, kept)) << result.err;
  }
  // The next machine of the name starts with nothing, and one that is stopped leaves nothing.
  Start("vm");
  EXPECT_FALSE(fs::exists(kept));
}

TEST_F(MachineTest, ALackOfFilesIsNamedWithItsRemedyHoweverFarTheStartGets) {
  int refused = 0;
  bool ran = false;
  for (rlim_t files = 10; files < 100 && !ran; files += 2) {
    FerriteProcess ferrite(Words("run --mem 64M --console none --kernel " + Guest("hello")), /*user=*/0, [files] {
      const rlimit limit = {.rlim_cur = files, .rlim_max = files};
      (void)setrlimit(RLIMIT_NOFILE, &limit);
    });
    const Finished result = ferrite.Wait();
    ran = result.exit_code == kExitOk;
    if (!ran) {
      ++refused;
      EXPECT_TRUE(absl::StrContains(result.err, "ulimit -n")) << files << "\n" << result.err;
    }
  }
  EXPECT_TRUE(ran);
  EXPECT_GE(refused, 3);
}

TEST_F(MachineTest, UserWithoutPermissionIsToldSo) {
  struct stat kvm = {};
  if (geteuid() != 0 || stat("/dev/kvm", &kvm) != 0 || (kvm.st_mode & 07) != 0) {
    GTEST_SKIP() << "needs root here and a /dev/kvm that is not everybody's";
  }
  ASSERT_EQ(chmod(directory_.c_str(), 0777), 0);
  const std::string kernel = Write("kernel", "x");
  const Finished result = RunFerrite(Words("run --kernel " + kernel), kNobody);
  if (result.exit_code == 126 || result.exit_code == 127) {
    GTEST_SKIP() << "cannot become another user here";
  }
  EXPECT_EQ(result.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(result.err, "/dev/kvm")) << result.err;
  EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << result.err;
  ExpectNothingLeft();
}

}  // namespace
}  // namespace ferrite
