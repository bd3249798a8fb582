// Moves that fail, are interrupted or lose a side, as people see them and with what they type then (docs/failure.md).
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/base/config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/relay.h"
#include "tests/fakes/task_limit.h"
#include "tests/fakes/test_place.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ferrite_move_rig.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class FerriteMoveFailureTest : public FerriteMoveRig {};

TEST_F(FerriteMoveFailureTest, FailedMoveSaysWhereTheGuestIs) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  const std::string nobody = absl::StrCat("unix:", directory_, "/nobody");
  const Finished failed = Ferrite("here", absl::StrCat("move web1 ", nobody));
  EXPECT_EQ(failed.exit_code, kExitFailure);
  EXPECT_FALSE(absl::StrContains(failed.out, "failed")) << failed.out;
  EXPECT_EQ(failed.err.find('\n'), failed.err.size() - 1) << failed.err;
  EXPECT_FALSE(absl::StrContains(failed.err, "the guest runs on here")) << "twice: " << failed.err;
  EXPECT_TRUE(absl::StrContains(failed.err, "nobody")) << failed.err;
  EXPECT_TRUE(absl::StrContains(failed.err, "web1 runs on here")) << failed.err;
  EXPECT_EQ(Info("here")["state"], "running");
  EXPECT_EQ(Info("here")["move"]["ok"], false);
  const Finished status = Ferrite("here", "move web1 --status");
  EXPECT_EQ(status.exit_code, kExitOk);
  EXPECT_TRUE(absl::StrContains(status.out, "web1 runs on here")) << status.out;

  const Finished cancel = Ferrite("here", "move web1 --cancel");
  EXPECT_EQ(cancel.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(cancel.err, "is not moving")) << cancel.err;
  const Finished self = Ferrite("here", absl::StrCat("move web1 unix:", directory_, "/here/web1/control.sock"));
  EXPECT_EQ(self.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(self.err, "own control socket")) << self.err;
  EXPECT_EQ(Info("here")["state"], "running");
}

TEST_F(FerriteMoveFailureTest, GuestThatPoweredOffMeanwhileIsNotSaidToRunOn) {
  const std::string console = absl::StrCat(directory_, "/con");
  const std::string log = absl::StrCat(directory_, "/log");
  std::vector<std::string> words =
      Words("here", absl::StrCat("run --name web1 --kernel ", kernel_, " --mem 64M --detach --console unix:", console,
                                 " --log ", log, " --cmdline"));
  words.insert(words.end() - 2, "set=16M report_ms=10");
  ASSERT_EQ(RunFerrite(words).exit_code, kExitOk);
  const Finished self = Ferrite("here", absl::StrCat("move web1 unix:", console));
  EXPECT_EQ(self.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(self.err, "own console socket")) << self.err;

  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0");
  FerriteProcess move(Words("here", absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"]["state"] != "active" && MonotonicTime::Now() < deadline) {
  }
  auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  auto keyboard = migration::Connect(*migration::ParseAddress(absl::StrCat("unix:", console)), kPatience, *cancel);
  ASSERT_TRUE(keyboard.ok()) << keyboard.status();
  const uint8_t key = 'q';  // check and power off
  ASSERT_TRUE((*keyboard)->WriteAll({&key, 1}).ok());
  const Finished moved = move.Wait();
  EXPECT_EQ(moved.exit_code, kExitFailure);
  EXPECT_FALSE(absl::StrContains(moved.err, "runs on here")) << moved.err;
  const auto logged = [&] {
    std::stringstream text;
    text << std::ifstream(log).rdbuf();
    return text.str();
  };
  while (!absl::StrContains(logged(), "the guest was here and has stopped") && MonotonicTime::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_TRUE(absl::StrContains(logged(), "the guest was here and has stopped")) << logged();
  EXPECT_FALSE(absl::StrContains(logged(), "runs on here")) << logged();
  // It ends by itself, and tidies up.
  while (fs::exists(absl::StrCat(directory_, "/here/web1")) && MonotonicTime::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(10));
  }
}

// A path of its own for each side, so that the connections can be cut.
TEST_F(FerriteMoveFailureTest, MoveGoesOnAfterALostConnection) {
  RunSlowGuest("here");
  const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
  auto relay = migration::Relay::Create(directory_ + "/relay", *migration::ParseAddress(address));
  ASSERT_TRUE(relay.ok()) << relay.status();
  FerriteProcess move(Words("here", absl::StrCat("move web1 ", (*relay)->address().ToString(),
                                                 " --mode postcopy --max-postcopy-bandwidth 4M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  (*relay)->Cut();
  const Finished moved = move.Wait();
  EXPECT_EQ(moved.exit_code, kExitOk) << moved.err << moved.out;
  EXPECT_TRUE(absl::StrContains(moved.out, "recovered      1 time")) << moved.out;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 ")) << "R4";
}

// R2: the guest runs again when a person says so, not before.
TEST_F(FerriteMoveFailureTest, GuestOfADestinationThatDiedIsTakenBack) {
  RunSlowGuest("here");
  const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
  FerriteProcess move(Words(
      "here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 1M --recover-for 500ms")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  EXPECT_TRUE(absl::StrContains(Ferrite("here", "recover web1 --here").err, "still on"));
  receiver_->Signal(SIGKILL);
  (void)receiver_->Wait();
  receiver_.reset();
  const Finished lost = move.Wait();
  EXPECT_EQ(lost.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(lost.err, "ferrite recover web1 --here")) << lost.err;
  EXPECT_EQ(Info("here")["state"], "paused");
  EXPECT_EQ(Info("here")["move"]["guest"], "handed-over") << Info("here")["move"];
  const std::string row = Ferrite("here", "ps").out;
  EXPECT_TRUE(absl::StrContains(row, absl::StrCat("handed over to ", address, " ")) && absl::StrContains(row, "s ago"))
      << row;
  const std::string told = Ferrite("here", "info web1").out;
  EXPECT_TRUE(absl::StrContains(told, " are missing there")) << told;
  EXPECT_TRUE(absl::StrContains(told, "`ferrite recover web1 --here`")) << told;
  EXPECT_EQ(Ferrite("here", "resume web1").exit_code, kExitFailure);
  EXPECT_EQ(Ferrite("here", absl::StrCat("move web1 ", address)).exit_code, kExitFailure);
  EXPECT_EQ(Ferrite("here", "recover web1").exit_code, kExitFailure);
  EXPECT_EQ(Info("here")["state"], "paused") << "R2";
  // An address where nobody is does not make it forget the right one.
  EXPECT_EQ(Ferrite("here", "recover web1 unix:/tmp/nobody").exit_code, kExitFailure);
  EXPECT_EQ(Info("here")["move"]["destination"], address);
  const Finished stop = Ferrite("here", "stop web1");
  EXPECT_EQ(stop.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(stop.err, "--force")) << stop.err;

  const Finished back = Ferrite("here", "recover web1 --here");
  EXPECT_EQ(back.exit_code, kExitOk) << back.err;
  EXPECT_TRUE(absl::StrContains(back.out, "web1 runs on here") && absl::StrContains(back.out, "s ago")) << back.out;
  EXPECT_EQ(Info("here")["state"], "running");
  EXPECT_TRUE(absl::StrContains(NextReport("here"), "errors=0 ")) << "R1";
  const Finished again = Ferrite("here", "recover web1");
  EXPECT_EQ(again.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(again.err, "nothing to recover")) << again.err;
  const std::string elsewhere = StartReceiver("there", "tcp:127.0.0.1:0");
  EXPECT_EQ(Ferrite("here", absl::StrCat("move web1 ", elsewhere)).exit_code, kExitOk) << "R3";
}

// A guest that misses pages can be ended where it runs, too.
TEST_F(FerriteMoveFailureTest, GuestWhoseSourceDiedWaitsAndCanBeStopped) {
  RunSlowGuest("here");
  const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
  FerriteProcess move(
      Words("here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 1M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("there")["arrival"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  kill(static_cast<pid_t>(Info("here")["pid"]), SIGKILL);
  const Finished ended = move.Wait();
  EXPECT_EQ(ended.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(ended.err, "the monitor of machine web1 is gone")) << ended.err;
  while (Info("there")["arrival"]["state"] != "postcopy-paused" && MonotonicTime::Now() < deadline) {
  }
  EXPECT_EQ(Info("there")["arrival"]["state"], "postcopy-paused");
  EXPECT_TRUE(absl::StrContains(Ferrite("there", "ps").out, "running, misses memory"));
  EXPECT_TRUE(absl::StrContains(Ferrite("there", "info web1").out, "`ferrite stop web1` ends it here"));
  // R2: its name is not used again where it was before somebody says so.
  EXPECT_TRUE(absl::StrContains(Ferrite("here", "ps").out, absl::StrCat("handed over to ", address)));
  const Json listed = Json::parse(Ferrite("here", "ps --json").out);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0]["state"], "handed-over");
  EXPECT_EQ(listed[0]["destination"], address);
  for (const char* words : {"info web1", "recover web1", "recover web1 --here", "stop web1",
                            "run --name web1 --kernel tests/guest/dirty --detach --console none"}) {
    const Finished refused = Ferrite("here", words);
    EXPECT_EQ(refused.exit_code, absl::StartsWith(words, "run") ? kExitFailure : kExitNoSuchMachine) << words;
    EXPECT_TRUE(absl::StrContains(refused.err, absl::StrCat("handed over to ", address, " (epoch 1)"))) << refused.err;
    EXPECT_TRUE(absl::StrContains(refused.err, "ferrite stop web1 --force")) << refused.err;
  }
  EXPECT_EQ(Ferrite("here", "stop web1 --force").exit_code, kExitOk);
  EXPECT_EQ(Ferrite("here", "ps --json").out, "[]\n");
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
  EXPECT_EQ(receiver_->Wait().exit_code, kExitOk);
  receiver_.reset();
}

#if !defined(ABSL_HAVE_THREAD_SANITIZER)  // It takes threads that end with their process for a mistake.

// Whether what reads the disk of that monitor waits for a page that a move has not brought: the thread of its devices,
// in the kernel with the io_uring's lock, or where the file system wants it one of the io_uring's.
bool DiskWaitsForAPage(pid_t monitor) {
  const auto line_of = [](const fs::path& path) {
    std::string line;
    std::ifstream file(path);
    std::getline(file, line);
    return line;
  };
  std::error_code ignored;
  for (const fs::directory_entry& task : fs::directory_iterator(absl::StrCat("/proc/", monitor, "/task"), ignored)) {
    const std::string name = line_of(task.path() / "comm");
    if ((name == "devices" || absl::StartsWith(name, "iou-wrk")) &&
        line_of(task.path() / "wchan") == "handle_userfault") {
      return true;
    }
  }
  return false;
}

// Whether a handler of that process's has the signal, as before it came for the first time.
bool Catches(pid_t pid, int signal) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "SigCgt:")) {
      return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
    }
  }
  return false;
}

// Kills a process that is no child of the test's, and waits for its end.
void Kill(pid_t pid) {
  const Fd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  (void)kill(pid, SIGKILL);
  pollfd ended = {process.get(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))), 1);
}

// Only its end gets it out of there.
TEST_F(FerriteMoveFailureTest, GuestWhoseDiskWaitsForMemoryThatNeverComesCanBeEnded) {
  const std::string disk = directory_ + "/disk";
  std::ofstream(disk) << std::string(1 << 20, 'x');
  fs::remove(kernel_);
  fs::copy_file("tests/guest/virtio", kernel_);
  fs::permissions(kernel_, fs::perms::owner_all);
  for (const absl::string_view how : {"stop web1", "stop web1 --force", "signals"}) {
    SCOPED_TRACE(how);
    bool waits = false;
    for (int attempt = 0; !waits && attempt < 5; ++attempt) {
      // The disk is the first to touch most of its memory, so that it waits for page after page.
      RunGuest("here", absl::StrCat("blk_span=1M fill=4M report_ms=10 blk_cold=", ForPlace("192M", "32M")),
               absl::StrCat(" --disk id=root,path=", disk), ForPlace("256M", "64M"));
      (void)NextReport("here", "event=virtio");
      const int source = Info("here")["pid"];
      const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket --debuggable"));
      FerriteProcess move(
          Words("here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 64K")));
      const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
      while (!DiskWaitsForAPage(receiver_->pid()) && kill(source, 0) == 0 && MonotonicTime::Now() < deadline) {
      }
      Kill(source);
      (void)move.Wait();
      // If it was handed over.
      (void)Ferrite("here", "stop web1 --force");
      const MonotonicTime soon = MonotonicTime::Now() + absl::Seconds(2);
      while (!(waits = DiskWaitsForAPage(receiver_->pid())) && MonotonicTime::Now() < soon) {
      }
      if (!waits) {
        // It was not looked at in time, or got all that it had asked for.
        receiver_.reset();
        fs::remove_all(directory_ + "/there");
      }
    }
    ASSERT_TRUE(waits);
    const MonotonicTime start = MonotonicTime::Now();
    if (how == "signals") {
      receiver_->Signal(SIGTERM);
      // Two that wait to be taken are one.
      while (Catches(receiver_->pid(), SIGTERM) && MonotonicTime::Now() - start < kPatience) {
      }
      receiver_->Signal(SIGTERM);
      EXPECT_EQ(receiver_->Wait().exit_code, -1);
      fs::remove_all(directory_ + "/there");
    } else {
      const Finished stopped = Ferrite("there", how);
      EXPECT_EQ(stopped.exit_code, kExitOk) << stopped.err;
      const Finished ended = receiver_->Wait();
      EXPECT_EQ(ended.exit_code, kExitOk) << ended.err;
      EXPECT_TRUE(absl::StrContains(ended.err, "waits for memory that is missing")) << ended.err;
      EXPECT_FALSE(fs::exists(directory_ + "/there/web1"));
    }
    EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(15));
    receiver_.reset();
  }
}
#endif

// An end has an end, whether the source sends too slowly or stands still.
TEST_F(FerriteMoveFailureTest, ArrivingGuestIsEndedWithoutWaitingForItsMemory) {
  for (const bool stands_still : {false, true}) {
    SCOPED_TRACE(stands_still);
    RunSlowGuest("here");
    const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
    FerriteProcess move(
        Words("here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 64K")));
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (Info("there")["arrival"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
    }
    const int source = Info("here")["pid"];
    if (stands_still) {
      ASSERT_EQ(kill(source, SIGSTOP), 0);
    }
    const MonotonicTime start = MonotonicTime::Now();
    const Finished stopped = Ferrite("there", "stop web1");
    EXPECT_EQ(stopped.exit_code, kExitOk) << stopped.err;
    EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(10) + ForPlace(absl::ZeroDuration(), absl::Seconds(20)));
    const Finished ended = receiver_->Wait();
    receiver_.reset();
    EXPECT_EQ(ended.exit_code, kExitOk) << ended.err;
    EXPECT_FALSE(fs::exists(directory_ + "/there/web1"));
    kill(source, SIGCONT);
    EXPECT_EQ(Ferrite("here", "stop web1 --force").exit_code, kExitOk);
    (void)move.Wait();
  }
}

// R3
TEST_F(FerriteMoveFailureTest, ReceiverThatIsStoppedOrKilledLeavesTheGuestAndItMovesAgain) {
  RunGuest("here", "mode=step set=16M report_ms=10");
  (void)NextReport("here");  // all of its memory is there to be moved
  for (const bool killed : {false, true}) {
    SCOPED_TRACE(killed);
    const std::string address = StartReceiver("there", "tcp:127.0.0.1:0");
    FerriteProcess move(
        Words("here", absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M --recover-for 500ms")));
    AwaitMemory("here");
    if (killed) {
      receiver_->Signal(SIGKILL);
    } else {
      EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
    }
    (void)receiver_->Wait();
    receiver_.reset();
    const Finished failed = move.Wait();
    EXPECT_EQ(failed.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(failed.err, "web1 runs on here")) << failed.err;
    EXPECT_TRUE(killed || absl::StrContains(failed.err, "the destination says: ")) << failed.err;
    EXPECT_EQ(Info("here")["state"], "running");
    EXPECT_TRUE(absl::StrContains(NextReport("here"), "errors=0 "));
  }
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", "tcp:127.0.0.1:0")));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
}

TEST_F(FerriteMoveFailureTest, GuestIsTakenBackPausedWhenSomebodyElseHasItsDisk) {
  const std::string disk = directory_ + "/disk";
  std::ofstream(disk).close();
  fs::resize_file(disk, 1 << 20);
  RunSlowGuest("here", absl::StrCat(" --disk id=root,ro,path=", disk));
  const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
  FerriteProcess move(Words(
      "here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 1M --recover-for 100ms")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  receiver_->Signal(SIGKILL);
  (void)receiver_->Wait();
  receiver_.reset();
  EXPECT_EQ(move.Wait().exit_code, kExitFailure);
  auto other = DiskImage::Create(disk, /*read_only=*/false);
  ASSERT_TRUE(other.ok()) << other.status();
  const Finished back = Ferrite("here", "recover web1 --here");
  EXPECT_EQ(back.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(back.err, "is in use by")) << back.err;
  EXPECT_TRUE(absl::StrContains(back.err, "stays paused here until `resume`")) << back.err;
  EXPECT_FALSE(fs::exists(directory_ + "/here/web1/grant"));
  EXPECT_TRUE(absl::StrContains(Ferrite("here", "resume web1").err, "is in use by"));
  other->reset();
  const Finished resumed = Ferrite("here", "resume web1");
  EXPECT_EQ(resumed.exit_code, kExitOk) << resumed.err;
  EXPECT_TRUE(absl::StrContains(NextReport("here"), "errors=0 ")) << "R1";
}

// A destination that never says that it has everything must not keep the source's monitor for ever.
TEST_F(FerriteMoveFailureTest, SourceThatIsWaitedForCanBeEndedByForceOrASecondSignal) {
  // R4: also when the connection is lost, and whether or not it is still looked for.
  for (const absl::string_view how : {"force", "signals", "lost", "given up"}) {
    SCOPED_TRACE(how);
    std::vector<std::string> run =
        Words("here", absl::StrCat("run --name web1 --kernel ", kernel_, " --mem 64M --console none"));
    run.push_back("--cmdline");
    run.push_back(kSlowGuest);
    FerriteProcess source(run);
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (Ferrite("here", "info web1").exit_code != kExitOk && MonotonicTime::Now() < deadline) {
    }
    const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
    FerriteProcess move(Words(
        "here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 64K --recover-for ",
                             how == "given up" ? "1ms" : "1h")));
    while (Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
    }
    const bool lost = how == "lost" || how == "given up";
    if (lost) {
      receiver_->Signal(SIGKILL);
      while (Info("here")["move"]["state"] == "postcopy-active" && MonotonicTime::Now() < deadline) {
      }
    }
    const Finished refused = Ferrite("here", "stop web1");
    EXPECT_EQ(refused.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(refused.err, "--force gives that up")) << refused.err;
    if (how != "force") {
      source.Signal(SIGTERM);
      const std::string log = directory_ + "/here/web1/ferrite.log";
      for (std::string text; !absl::StrContains(text, "a signal ends it at once") && MonotonicTime::Now() < deadline;) {
        std::stringstream all;
        all << std::ifstream(log).rdbuf();
        text = all.str();
      }
    }
    if (how == "signals") {
      source.Signal(SIGTERM);
      (void)source.Wait();
      // It died with the word that the guest is elsewhere: the name is not free before somebody says so.
      EXPECT_EQ(Ferrite("here", "run --name web1 --kernel tests/guest/dirty").exit_code, kExitFailure);
      const Finished forgotten = Ferrite("here", "stop web1 --force");
      EXPECT_EQ(forgotten.exit_code, kExitOk) << forgotten.err;
    } else {
      const Finished stop = Ferrite("here", "stop web1 --force");
      EXPECT_EQ(stop.exit_code, kExitOk) << stop.err;
      const Finished ended = source.Wait();
      EXPECT_EQ(ended.exit_code, kExitOk) << ended.err;
      EXPECT_FALSE(fs::exists(directory_ + "/here/web1"));
    }
    (void)move.Wait();
    receiver_->Signal(SIGKILL);
    (void)receiver_->Wait();
    receiver_.reset();
    fs::remove_all(directory_ + "/there/web1");
  }
}

// The disk's path is a link, and leads elsewhere when the source takes its disks back, because it could not write down
// that it hands the machine over.
TEST_F(FerriteMoveFailureTest, SourceTakesBackTheDiskThatItHadWhereverItsPathLeadsNow) {
  const std::string here = directory_ + "/here";
  const std::string disk = directory_ + "/disk";
  const std::string own = directory_ + "/own";
  const std::string other = directory_ + "/other";
  ASSERT_TRUE(fs::create_directory(here));
  const bool can_be_full = mount("none", here.c_str(), "tmpfs", 0, "size=128k") == 0;
  if (can_be_full) {
    mounted_ = here;
  }
  const std::string content(1 << 20, 'o');
  std::ofstream(other) << content;
  std::ofstream(own).close();
  fs::resize_file(own, content.size());
  fs::create_symlink(own, disk);
  fs::remove(kernel_);
  fs::copy_file("tests/guest/virtio", kernel_);
  fs::permissions(kernel_, fs::perms::owner_all);
  // It writes, reads back and compares all the time.
  RunGuest("here", "blk_span=1M fill=4M report_ms=10", absl::StrCat(" --disk id=root,path=", disk));
  const auto expect_own_disk = [&] {
    EXPECT_TRUE(DiskImage::Create(other, /*read_only=*/false).ok()) << "nobody has it";
    EXPECT_FALSE(DiskImage::Create(own, /*read_only=*/false).ok()) << "the guest has it";
    std::stringstream text;
    text << std::ifstream(other).rdbuf();
    EXPECT_EQ(text.str(), content);
  };
  fs::remove(disk);
  fs::create_symlink(other, disk);
  // The last one fails when the guest stands still and its disk is released, the others while it runs.
  const std::string unfinished = here + "/web1/grant.new";
  const std::string record = here + "/web1/grant";
  for (const absl::string_view why : {"directory", "full", "directory at the end"}) {
    SCOPED_TRACE(why);
    if (why == "directory") {
      ASSERT_TRUE(fs::create_directory(unfinished));
    } else if (why == "directory at the end") {
      ASSERT_TRUE(fs::create_directory(record));
    } else if (can_be_full) {
      std::ofstream(here + "/filler") << std::string(256 << 10, 'x') << std::flush;
    } else {
      continue;
    }
    const std::string address = StartReceiverWith(
        "there", absl::StrCat("tcp:127.0.0.1:0 --boot-from ", directory_, " --disk-from ", directory_));
    const Finished failed = Ferrite("here", absl::StrCat("move web1 ", address));
    EXPECT_EQ(failed.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(failed.err, "record the hand-over")) << failed.err;
    EXPECT_TRUE(absl::StrContains(failed.err, "web1 runs on here")) << failed.err;
    (void)receiver_->Wait();
    receiver_.reset();
    expect_own_disk();
    EXPECT_TRUE(absl::StrContains(NextReport("here", "event=virtio"), "errors=0 "));
    // So it is with a pause.
    EXPECT_EQ(Ferrite("here", "pause web1").exit_code, kExitOk);
    EXPECT_EQ(Ferrite("here", "resume web1").exit_code, kExitOk);
    expect_own_disk();
    fs::remove(unfinished);
    fs::remove(record);
    fs::remove(here + "/filler");
  }
  // And what the destination is told of is that disk, by the name that it has now.
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", "tcp:127.0.0.1:0")));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_EQ(Info("there")["disks"][0]["path"], own);
  expect_own_disk();
  EXPECT_TRUE(absl::StrContains(NextReport("there", "event=virtio"), "errors=0 "));
}

// The log and the record of the hand-over are in the run directory.
TEST_F(FerriteMoveFailureTest, FullDiskFailsTheMoveAndTheGuestRunsOn) {
  const std::string here = directory_ + "/here";
  ASSERT_TRUE(fs::create_directory(here));
  if (mount("none", here.c_str(), "tmpfs", 0, "size=128k") != 0) {
    GTEST_SKIP() << "A FULL DISK IS NOT TESTED: mounting a small tmpfs needs root: " << std::strerror(errno);
  }
  mounted_ = here;
  RunGuest("here", "mode=step set=4M report_ms=10");
  std::ofstream(here + "/filler") << std::string(256 << 10, 'x') << std::flush;
  for (int i = 0; i < 2; ++i) {
    const Finished failed = Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", "tcp:127.0.0.1:0")));
    EXPECT_EQ(failed.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(failed.err, "No space left on device")) << failed.err;
    EXPECT_TRUE(absl::StrContains(failed.err, "web1 runs on here")) << failed.err;
    const Finished received = receiver_->Wait();
    receiver_.reset();
    EXPECT_TRUE(absl::StrContains(received.err, "No space left on device")) << received.err;
    // Much that would be logged.
    for (int j = 0; j < 20; ++j) {
      EXPECT_EQ(Ferrite("here", "pause web1").exit_code, kExitOk);
      EXPECT_EQ(Ferrite("here", "resume web1").exit_code, kExitOk);
    }
    EXPECT_TRUE(absl::StrContains(NextReport("here"), "errors=0 "));
  }
  fs::remove(here + "/filler");
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", "tcp:127.0.0.1:0")));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
}

// From here on this process, and what it runs, gets no userfaultfd: neither by the system call nor from the device.
void LoseUserfaultfd() {
  constexpr uint32_t kNewFromDevice = 0xaa00;  // USERFAULTFD_IOC_NEW
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kNewFromDevice, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(filter), .filter = filter};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    _exit(125);
  }
}

// In a control group that leaves room for none, one, two more tasks, and so on: the move fails and says why, the guest
// runs on and can be paused, and the machine moves when there is room (R3).
TEST_F(FerriteMoveFailureTest, LackOfTasksFailsTheMoveAndTheGuestRunsOn) {
  const auto limit = TaskLimit::Create();
  ASSERT_TRUE(limit.ok()) << limit.status();
  RunGuest("here", "mode=step set=2M report_ms=10");
  NextReport("here");
  ASSERT_TRUE((*limit)->Add(Info("here")["pid"].get<pid_t>()).ok());
  int failed = 0;
  bool moved = false;
  for (uint64_t more = 0; !moved && more < 12; more += ForPlace(1, 3)) {
    SCOPED_TRACE(absl::StrCat("room for ", more));
    const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
    const auto count = (*limit)->Count();
    ASSERT_TRUE(count.ok()) << count.status();
    ASSERT_TRUE((*limit)->SetMost(*count + more).ok());
    const Finished result = Ferrite("here", absl::StrCat("move web1 ", address));
    ASSERT_TRUE((*limit)->Lift().ok());
    moved = result.exit_code == kExitOk;
    if (moved) {
      break;
    }
    ++failed;
    EXPECT_EQ(result.exit_code, kExitFailure) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, "make the thread ")) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, "pids.max")) << result.err;
    EXPECT_EQ(Info("here")["state"], "running") << "R3";
    EXPECT_NE(NextReport("here"), "no report") << "R3";
    EXPECT_EQ(Ferrite("here", "pause web1").exit_code, kExitOk);
    EXPECT_EQ(Ferrite("here", "resume web1").exit_code, kExitOk);
    receiver_.reset();
    (void)Ferrite("there", "ps");
    fs::remove(directory_ + "/socket");
  }
  EXPECT_GE(failed, 2);
  EXPECT_TRUE(moved);
  EXPECT_NE(NextReport("there"), "no report");
}

// `run` in such a group runs, or says which task cannot be made; it does not hang.
TEST_F(FerriteMoveFailureTest, LackOfTasksEndsARunWithAWord) {
  const auto limit = TaskLimit::Create();
  ASSERT_TRUE(limit.ok()) << limit.status();
  int named = 0;
  bool ran = false;
  for (uint64_t most = 1; !ran && most < 24; ++most) {
    SCOPED_TRACE(absl::StrCat("room for ", most));
    ASSERT_TRUE((*limit)->SetMost(most).ok());
    std::vector<std::string> words =
        Words("here", absl::StrCat("run --name web1 --kernel ", "tests/guest/count",
                                   " --mem 32M --console file:", directory_, "/here.console"));
    words.push_back("--cmdline");
    words.push_back("report_ms=1 reports=2");
    FerriteProcess process(words, /*user=*/0, [&] { FERRITE_CHECK((*limit)->Add(0).ok()); });
    const Finished result = process.Wait();
    ran = result.exit_code == kExitOk;
    if (!ran) {
      EXPECT_EQ(result.exit_code, kExitFailure) << result.err;
      named += absl::StrContains(result.err, "pids.max") ? 1 : 0;
      EXPECT_FALSE(result.err.empty());
    }
  }
  EXPECT_TRUE(ran);
  EXPECT_GE(named, 3);
}

TEST_F(FerriteMoveFailureTest, DestinationWithoutUserfaultfdSaysHowToGetItAndTakesPrecopy) {
  RunGuest("here", "mode=step set=4M rate=2000 report_ms=10");
  const std::string listen = "tcp:127.0.0.1:0";
  const Finished refused =
      Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", listen, LoseUserfaultfd), " --mode postcopy"));
  EXPECT_EQ(refused.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(refused.err, "the destination cannot do post-copy")) << refused.err;
  EXPECT_TRUE(absl::StrContains(refused.err, "vm.unprivileged_userfaultfd=1")) << refused.err;
  EXPECT_TRUE(absl::StrContains(refused.err, "web1 runs on here")) << refused.err;
  (void)receiver_->Wait();
  const Finished moved =
      Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", listen, LoseUserfaultfd), " --json"));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(moved.out, "\"postcopy\":false")) << moved.out;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
}

}  // namespace
}  // namespace ferrite
