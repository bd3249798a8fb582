// `ferrite run`, `receive`, `move` and `info` as people use them: two monitors, a guest that checks its own memory.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "devices/block/disk_image.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/relay.h"
#include "vmm/app/exit_codes.h"
#include "vmm/app/ferrite_move_rig.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class FerriteMoveTest : public FerriteMoveRig {
 protected:
  // A source's monitor ends by itself, and its run directory, which it made, goes with it.
  void AwaitGone(const std::string& run_directory) const {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    while (fs::exists(absl::StrCat(directory_, "/", run_directory))) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      std::this_thread::yield();
    }
  }
};

// The destination has one processor, and two threads beside it that never rest want that, too.
TEST_F(FerriteMoveTest, AccountTellsOfWaitingForAProcessorAndOfWhatTookTooLong) {
  cpu_set_t one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(one), &one), 0);
  for (int processor = 0; CPU_COUNT(&one) > 1; ++processor) {
    CPU_CLR(processor, &one);
  }
  const auto use_one = [&one] { (void)sched_setaffinity(0, sizeof(one), &one); };
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < 2; ++i) {
    busy.emplace_back([&] {
      use_one();
      while (!stop) {
      }
    });
  }
  const absl::Cleanup rest = [&] {
    stop = true;
    for (std::thread& thread : busy) {
      thread.join();
    }
  };
  // A thread may get the processor whenever it wants it, in one move.
  std::map<std::string, double> waited;
  const auto all_waited = [&] {
    return waited.size() == 4 && std::all_of(waited.begin(), waited.end(), [](const auto& w) { return w.second > 0; });
  };
  for (int attempt = 0; !all_waited() && attempt < 10; ++attempt) {
    RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
    const std::string address = StartReceiver("there", "tcp:127.0.0.1:0", use_one);
    const Finished moved =
        Ferrite("here", absl::StrCat("move web1 ", address, " --json --mode postcopy --downtime-limit 1us"));
    ASSERT_EQ(moved.exit_code, kExitOk) << moved.err << moved.out;
    const std::vector<std::string> lines = absl::StrSplit(moved.out, '\n', absl::SkipEmpty());
    const Json report = Json::parse(lines.back())["report"];
    EXPECT_EQ(report["downtime_limit_seconds"], 1e-6);
    EXPECT_TRUE(report["too_long"].is_string()) << report;
    const auto note = [&waited](const std::string& name, const Json& seconds) {
      waited[name] = std::max(waited[name], seconds.get<double>());
    };
    for (const std::string name : {"source_wait_seconds", "destination_wait_seconds", "entry_wait_seconds"}) {
      note(name, report[name]);
    }
    note("arrival", Info("there")["arrival"]["destination_wait_seconds"]);
    AwaitGone("here");
    EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
    EXPECT_EQ(receiver_->Wait().exit_code, kExitOk);
    receiver_.reset();
  }
  EXPECT_TRUE(all_waited()) << Json(waited);
}

TEST_F(FerriteMoveTest, GuestMovesAndBothEndsTellOfIt) {
  for (const auto& [mode, listen] : {std::pair<std::string, std::string>{"precopy", "tcp:127.0.0.1:0"},
                                     {"postcopy", absl::StrCat("unix:", directory_, "/socket")},
                                     {"auto", "tcp:127.0.0.1:0"}}) {
    SCOPED_TRACE(mode);
    RunGuest("here", "mode=step set=8M report_ms=10 rate=20000");
    const std::string address = StartReceiver("there", listen);
    ASSERT_FALSE(address.empty());
    ASSERT_FALSE(absl::EndsWith(address, ":0"));
    EXPECT_EQ(Info("there")["state"], "created");

    const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address, " --json --mode ", mode));
    ASSERT_EQ(moved.exit_code, kExitOk) << moved.err << moved.out;
    const std::vector<std::string> lines = absl::StrSplit(moved.out, '\n', absl::SkipEmpty());
    Json last = Json::parse(lines.back());
    EXPECT_EQ(last["over"], true);
    EXPECT_EQ(last["ok"], true);
    EXPECT_EQ(last["guest"], "there");
    EXPECT_EQ(last["report"]["postcopy"], mode == "postcopy" || last["report"]["postcopy"] == true);
    EXPECT_GT(last["report"]["data_pages"], 0);
    EXPECT_GT(last["report"]["downtime_seconds"], 0.0);

    // The source knows a moment before the destination has written its own account down.
    Json info = Info("there");
    for (const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
         info["arrival"]["over"] != true && MonotonicTime::Now() < deadline;) {
      info = Info("there");
    }
    EXPECT_EQ(info["state"], "running");
    EXPECT_EQ(info["memory_bytes"], 64 << 20);
    EXPECT_EQ(info["arrival"]["ok"], true);
    EXPECT_EQ(info["arrival"]["data_pages"], last["report"]["data_pages"]);
    EXPECT_LE(info["arrival"]["copied_pages"], info["arrival"]["data_pages"]);
    EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
    AwaitGone("here");
    EXPECT_EQ(Ferrite("here", "info web1").exit_code, kExitNoSuchMachine);
    EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
    EXPECT_EQ(receiver_->Wait().exit_code, kExitOk);
    receiver_.reset();
  }
}

// The monitors are elsewhere: one is detached.
TEST_F(FerriteMoveTest, SocketIsWhereTheUserIs) {
  RunSlowGuest("here");
  const auto enter = [this] { ASSERT_EQ(chdir(directory_.c_str()), 0); };
  EXPECT_EQ(StartReceiver("there", "unix:socket", enter), absl::StrCat("unix:", directory_, "/socket"));
  auto relay =
      migration::Relay::Create(directory_ + "/relay", *migration::ParseAddress("unix:" + directory_ + "/socket"));
  ASSERT_TRUE(relay.ok()) << relay.status();
  const std::string slow = "--mode postcopy --max-postcopy-bandwidth 4M --recover-for 1ms";
  FerriteProcess move(Words("here", absl::StrCat("move web1 unix:relay ", slow)), /*user=*/0, enter);
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  EXPECT_EQ(Info("here")["move"]["destination"], absl::StrCat("unix:", directory_, "/relay"));
  relay->reset();
  EXPECT_EQ(move.Wait().exit_code, kExitFailure);
  const Finished recovered = FerriteProcess(Words("here", "recover web1 unix:socket"), /*user=*/0, enter).Wait();
  EXPECT_EQ(recovered.exit_code, kExitOk) << recovered.err;
  const std::string deep = absl::StrCat(directory_, "/", std::string(90, 'd'));
  ASSERT_TRUE(fs::create_directory(deep));
  for (const char* words :
       {"move web1 unix:socket", "recover web1 unix:socket", "receive --name web2 --listen unix:socket"}) {
    const Finished failed =
        FerriteProcess(Words("here", words), /*user=*/0, [&] { ASSERT_EQ(chdir(deep.c_str()), 0); }).Wait();
    EXPECT_EQ(failed.exit_code, kExitFailure) << words;
    EXPECT_TRUE(absl::StrContains(failed.err, "a socket's has at most 107")) << failed.err;
  }
}

TEST_F(FerriteMoveTest, PlainOutputEndsWithTheAccount) {
  RunGuest("here", "set=4M idle=1");
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0");
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(moved.out, absl::StrCat("web1 runs at ", address, "\ntotal"))) << moved.out;
  for (const char* row : {"downtime", "pages", "sent", "faults", "prefetch"}) {
    EXPECT_TRUE(absl::StrContains(moved.out, absl::StrCat("\n", row, " "))) << moved.out;
  }
}

TEST_F(FerriteMoveTest, CancelledMoveLeavesTheGuestAndEndsTheReceiver) {
  RunGuest("here", "set=16M report_ms=10");
  (void)NextReport("here");  // all of its memory is there to be moved
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0");
  FerriteProcess move(Words("here", absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Ferrite("here", "move web1 --cancel").exit_code != kExitOk && MonotonicTime::Now() < deadline) {
  }
  const Finished cancelled = move.Wait();
  EXPECT_EQ(cancelled.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(cancelled.err, "cancelled")) << cancelled.err;
  EXPECT_TRUE(absl::StrContains(cancelled.err, "web1 runs on here")) << cancelled.err;
  EXPECT_EQ(Info("here")["state"], "running");
}

TEST_F(FerriteMoveTest, SecondMoveAndPauseAreRefusedWhileOneIsOn) {
  RunGuest("here", "set=16M report_ms=10");
  (void)NextReport("here");  // all of its memory is there to be moved
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0");
  FerriteProcess move(Words("here", absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("here")["move"].is_null() && MonotonicTime::Now() < deadline) {
  }
  const Finished second = Ferrite("here", "move web1 unix:/tmp/elsewhere");
  EXPECT_EQ(second.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(second.err, "already moving")) << second.err;
  EXPECT_TRUE(absl::StrContains(Ferrite("here", "pause web1").err, "is moving to"));
  // A move is not its client's.
  move.Signal(SIGKILL);
  (void)move.Wait();
  EXPECT_EQ(Info("here")["move"]["over"], false);
  // The machine may be stopped, and takes the move with it.
  EXPECT_EQ(Ferrite("here", "stop web1").exit_code, kExitOk);
  const Finished received = receiver_->Wait();
  receiver_.reset();
  EXPECT_EQ(received.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(received.err, "no machine arrived")) << received.err;
}

// The source stands still, and may come back: what was asked for meanwhile is refused, not done then.
TEST_F(FerriteMoveTest, ArrivingGuestIsNotPausedLaterAndKeepsTheBalloonsTarget) {
  RunSlowGuest("here", " --balloon 0");
  const std::string address = StartReceiver("there", absl::StrCat("unix:", directory_, "/socket"));
  EXPECT_EQ(Info("there")["arrival"], nullptr);
  FerriteProcess move(
      Words("here", absl::StrCat("move web1 ", address, " --mode postcopy --max-postcopy-bandwidth 8M")));
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Info("there")["arrival"]["state"] != "postcopy-active" && MonotonicTime::Now() < deadline) {
  }
  const int source = Info("here")["pid"];
  ASSERT_EQ(kill(source, SIGSTOP), 0);
  const auto refused = [&](absl::string_view operation) {
    const Finished result = Ferrite("there", absl::StrCat(operation, " web1"));
    EXPECT_EQ(result.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(result.err, absl::StrCat("cannot ", operation, ": the machine is still arriving")))
        << result.err;
  };
  refused("pause");
  refused("resume");
  refused("reset");
  EXPECT_TRUE(absl::StrContains(Ferrite("there", "move web1 unix:/tmp/nobody").err, "still arriving"));
  // R8: done afterwards.
  const Finished balloon = Ferrite("there", "balloon web1 16M");
  EXPECT_EQ(balloon.exit_code, kExitOk) << balloon.err;
  EXPECT_NE(Info("there")["arrival"]["over"], true) << "it was too late";
  ASSERT_EQ(kill(source, SIGCONT), 0);
  const Finished moved = move.Wait();
  EXPECT_EQ(moved.exit_code, kExitOk) << moved.err;
  // As soon as the source knows.
  const Finished paused = Ferrite("there", "pause web1");
  EXPECT_EQ(paused.exit_code, kExitOk) << paused.err;
  EXPECT_EQ(Ferrite("there", "resume web1").exit_code, kExitOk);
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
  EXPECT_EQ(Info("there")["balloon"]["target_bytes"], 16 << 20);
}

TEST_F(FerriteMoveTest, ReceiverRefusesAKernelThatIsNotTheSourcesAndTakesItsOwn) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  const std::string listen = "tcp:127.0.0.1:0";
  // As on another host.
  const auto refused_with = [&](const std::string& options, const std::string& why) {
    const Finished refused = Ferrite("here", absl::StrCat("move web1 ", StartReceiverWith("there", listen + options)));
    EXPECT_EQ(refused.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(refused.err, "its kernel and initrd cannot be used here")) << refused.err;
    EXPECT_TRUE(absl::StrContains(refused.err, "`ferrite receive --kernel FILE [--initrd FILE]`")) << refused.err;
    EXPECT_TRUE(absl::StrContains(refused.err, "`--boot-from DIR`")) << refused.err;
    EXPECT_FALSE(absl::StrContains(refused.err, kernel_)) << refused.err;
    (void)Ferrite("there", "stop web1");
    const Finished received = receiver_->Wait();
    EXPECT_EQ(received.exit_code, kExitFailure);
    EXPECT_TRUE(absl::StrContains(received.err, absl::StrCat(kernel_, why))) << received.err;
  };
  refused_with("", " is below no directory");
  const std::string boot_from = absl::StrCat(" --boot-from ", directory_);
  fs::rename(kernel_, kernel_ + "-of-the-source");
  refused_with(boot_from, ": No such file or directory");
  std::ofstream(kernel_) << "another";
  refused_with(boot_from, " here is not the source's");
  fs::remove(kernel_);
  const Finished missing =
      Ferrite("there", absl::StrCat("receive --name web1 --listen ", listen, " --kernel ", kernel_));
  EXPECT_EQ(missing.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(missing.err, "--kernel: ")) << missing.err;
  const std::string address =
      StartReceiverWith("there", absl::StrCat(listen, " --dirty-ring --kernel tests/guest/dirty"));
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  const Finished reset = Ferrite("there", "reset web1");
  EXPECT_EQ(reset.exit_code, kExitOk) << "a guest that moved boots again: " << reset.err;
}

// A source that may write to the image's directory makes it a link to a file of the destination's user, in the middle
// of the move: the destination goes on with the image that it looked at.
TEST_F(FerriteMoveTest, ImageThatBecomesALinkMeanwhileIsNotFollowed) {
  const std::string disk = directory_ + "/disk";
  const std::string secret = directory_ + "/secret";
  for (const std::string& file : {disk, secret}) {
    std::ofstream(file).close();
    fs::resize_file(file, 1 << 20);
  }
  RunGuest("here", "mode=step set=8M idle=1", absl::StrCat(" --disk id=root,path=", disk));
  std::unique_ptr<FerriteProcess> source;
  for (const bool named : {false, true}) {
    SCOPED_TRACE(named);
    // There, and back.
    const std::string from = named ? "there" : "here";
    const std::string to = named ? "here" : "there";
    source = std::move(receiver_);
    const std::string address =
        named ? StartReceiverWith(to, absl::StrCat("tcp:127.0.0.1:0 --boot-from ", directory_, " --disk root=", disk))
              : StartReceiver(to, "tcp:127.0.0.1:0");
    FerriteProcess move(Words(from, absl::StrCat("move web1 ", address, " --mode precopy --max-bandwidth 1M")));
    AwaitMemory(from);
    const std::string moved = directory_ + "/moved";
    fs::rename(disk, moved);
    fs::create_symlink(secret, disk);
    EXPECT_EQ(Info(from)["move"]["state"], "active") << "it was too late";
    const Finished result = move.Wait();
    ASSERT_EQ(result.exit_code, kExitOk) << result.err;
    EXPECT_TRUE(DiskImage::Create(secret, /*read_only=*/false).ok()) << "nobody has it";
    EXPECT_FALSE(DiskImage::Create(moved, /*read_only=*/false).ok()) << "the guest has it";
    fs::remove(disk);
    fs::rename(moved, disk);
    AwaitGone(absl::StrCat(from, "/web1"));
  }
}

// The owner of the kernel's file writes to it, or puts a link in its place, after the move.
TEST_F(FerriteMoveTest, ResetAfterAMoveBootsTheFilesThatCameOrNothing) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", StartReceiver("there", "tcp:127.0.0.1:0")));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  fs::rename(kernel_, kernel_ + "-moved");
  fs::create_symlink("/etc/passwd", kernel_);
  const Finished reset = Ferrite("there", "reset web1");
  EXPECT_EQ(reset.exit_code, kExitOk) << reset.err;
  std::ofstream(kernel_ + "-moved", std::ios::in | std::ios::out) << "no kernel any more";
  const Finished refused = Ferrite("there", "reset web1");
  EXPECT_EQ(refused.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(refused.err, "has other content now than when the machine came here")) << refused.err;
  ASSERT_TRUE(absl::StrContains(NextReport("there"), "errors=0 ")) << "the guest runs on";
  // Content that nobody promised only has to be a kernel.
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
  const std::string own = directory_ + "/own";
  fs::copy_file("tests/guest/dirty", own);
  fs::permissions(own, fs::perms::owner_all);
  kernel_ = own;
  RunGuest("here", "mode=step set=4M report_ms=10");
  fs::resize_file(own, 1000);
  const Finished cut = Ferrite("here", "reset web1");
  EXPECT_EQ(cut.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(cut.err, "cannot reset: kernel ")) << cut.err;
  EXPECT_TRUE(absl::StrContains(NextReport("here"), "errors=0 "));
}

// Refused in words at both ends, and the next one arrives.
TEST_F(FerriteMoveTest, ReceiverThatRefusedAMachineTakesTheNext) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  for (const auto& [option, words] :
       {std::pair<std::string, std::string>{"--max-mem 63M", "64M of memory, `ferrite receive --max-mem` allows 63M"},
        {"--max-cpus 1", "2 vCPUs, `ferrite receive --max-cpus` allows 1"}}) {
    SCOPED_TRACE(option);
    const std::string address = StartReceiver("there", absl::StrCat("tcp:127.0.0.1:0 ", option));
    for (int i = 0; i < 2; ++i) {
      const Finished refused = Ferrite("here", absl::StrCat("move web1 ", address));
      EXPECT_EQ(refused.exit_code, kExitFailure);
      EXPECT_TRUE(absl::StrContains(refused.err, words)) << refused.err;
      EXPECT_TRUE(absl::StrContains(refused.err, "web1 runs on here")) << refused.err;
      EXPECT_EQ(Info("there")["state"], "created");
    }
    EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
    const Finished received = receiver_->Wait();
    receiver_.reset();
    EXPECT_TRUE(absl::StrContains(received.err, "receive: waits on, having refused the machine from tcp:127.0.0.1:"))
        << received.err;
    EXPECT_TRUE(absl::StrContains(received.err, words)) << received.err;
  }
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0 --max-mem 64M --max-cpus 2 --from 127.0.0.1");
  // Of another guest, which has more of both.
  const Finished other = Ferrite("here", absl::StrCat("run --name web2 --kernel tests/guest/dirty --mem 128M --cpus 3 "
                                                      "--detach --console none"));
  ASSERT_EQ(other.exit_code, kExitOk) << other.err;
  EXPECT_EQ(Ferrite("here", absl::StrCat("move web2 ", address)).exit_code, kExitFailure);
  EXPECT_EQ(Ferrite("here", "stop web2").exit_code, kExitOk);
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
}

TEST_F(FerriteMoveTest, StrangersLeaveDescriptorsForTheMachine) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0", [] {
    // As many as a machine needs, and some: fewer than strangers would take.
    const rlimit few = {80, 80};
    (void)setrlimit(RLIMIT_NOFILE, &few);
  });
  const auto cancel = EventFd::Create();
  ASSERT_TRUE(cancel.ok());
  std::vector<std::unique_ptr<migration::Stream>> strangers;
  for (int i = 0; i < 100; ++i) {
    auto stranger = migration::Connect(*migration::ParseAddress(address), kPatience, *cancel);
    ASSERT_TRUE(stranger.ok()) << stranger.status();
    strangers.push_back(*std::move(stranger));
  }
  const Finished moved = Ferrite("here", absl::StrCat("move web1 ", address));
  ASSERT_EQ(moved.exit_code, kExitOk) << moved.err;
  EXPECT_TRUE(absl::StrContains(NextReport("there"), "errors=0 "));
}

TEST_F(FerriteMoveTest, ReceiverLetsNobodyInButThoseWhoMayCome) {
  RunGuest("here", "mode=step set=4M report_ms=10");
  const std::string address = StartReceiver("there", "tcp:127.0.0.1:0 --from 192.0.2.0/24 --from 2001:db8::/32");
  const Finished refused = Ferrite("here", absl::StrCat("move web1 ", address));
  EXPECT_EQ(refused.exit_code, kExitFailure);
  EXPECT_TRUE(absl::StrContains(refused.err, "web1 runs on here")) << refused.err;
  EXPECT_EQ(Info("there")["state"], "created");
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
  const Finished received = receiver_->Wait();
  receiver_.reset();
  EXPECT_TRUE(absl::StrContains(received.err, "its address is in no range of --from")) << received.err;
}

TEST_F(FerriteMoveTest, ReceiverWithoutItsDescriptorSaysSoAtOnce) {
  const Finished receive = Ferrite("there", "receive --name web1 --listen tcp:127.0.0.1:0 --ready-fd 77");
  EXPECT_EQ(receive.exit_code, kExitFailure);
  EXPECT_EQ(receive.out, "");
  EXPECT_TRUE(absl::StrContains(receive.err, "--ready-fd 77")) << receive.err;
}

TEST_F(FerriteMoveTest, ReceiverWithoutAnRdmaDeviceSaysSoAtOnce) {
  if (std::filesystem::exists("/dev/infiniband/rdma_cm")) {
    GTEST_SKIP() << "this host has RDMA";
  }
  const Finished receive = Ferrite("there", "receive --name web1 --listen rdma:127.0.0.1:0");
  EXPECT_EQ(receive.exit_code, kExitFailure);
  EXPECT_EQ(receive.out, "");
  EXPECT_TRUE(absl::StrContains(receive.err, "this host has no RDMA device")) << receive.err;
}

TEST_F(FerriteMoveTest, ReceiverThatWaitsCanBeStopped) {
  ASSERT_FALSE(StartReceiver("there", "tcp:127.0.0.1:0").empty());
  const Finished move = Ferrite("there", "move web1 unix:/tmp/elsewhere");
  EXPECT_TRUE(absl::StrContains(move.err, "no machine has arrived")) << move.err;
  EXPECT_TRUE(absl::StrContains(Ferrite("there", "resume web1").err, "no machine has arrived"));
  EXPECT_EQ(Ferrite("there", "stop web1").exit_code, kExitOk);
  EXPECT_EQ(receiver_->Wait().exit_code, kExitFailure);
  receiver_.reset();
}

TEST_F(FerriteMoveTest, WrongWordsAreNamed) {
  const std::pair<const char*, const char*> wrong[] = {
      {"move", "name"},
      {"move web1", "say where to"},
      {"move web1 web2", "web2"},
      {"move web1 tcp:host", "tcp:host"},
      {"move web1 unix:/x --mode teleport", "teleport"},
      {"move web1 unix:/x --downtime-limit soon", "soon"},
      {"move web1 unix:/x --timeout 0s", "0s"},
      {"move web1 unix:/x --max-bandwidth fast", "fast"},
      {"move web1 unix:/x --max-bandwidth 0", "the least is 64K"},
      {"move web1 unix:/x --max-postcopy-bandwidth 1", "--max-postcopy-bandwidth"},
      {"move web1 unix:/x --channels 17", "17"},
      {"move web1 unix:/x --on-timeout wait", "wait"},
      {"move web1 unix:/x --on-timeout postcopy", "--timeout"},
      {"move web1 unix:/x --recover-for ever", "ever"},
      {"recover", "name"},
      {"recover web1 nowhere", "nowhere"},
      {"recover web1 unix:/x --here", "not both"},
      {"move web1 --status --cancel", "--status"},
      {"receive --name web1", "--listen"},
      {"receive --listen unix:/x", "--name"},
      {"receive --name web1 --listen ether:0", "ether:0"},
      {"receive --name web1 --listen unix:/x --disk root", "ID=PATH"},
      {"receive --name a/b --listen unix:/x", "a/b"},
      {"receive --name web1 --listen unix:/x --initrd i", "--kernel"},
  };
  for (const auto& [words, named] : wrong) {
    const Finished result = Ferrite("here", words);
    EXPECT_EQ(result.exit_code, kExitUsage) << words << "\n" << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, named)) << words << "\n" << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << words << "\n" << result.err;
  }
}

}  // namespace
}  // namespace ferrite
