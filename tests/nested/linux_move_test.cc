// A real Linux guest moves to and fro between two monitors on real (nested) KVM while it works: `load` in the guest
// writes and checks memory, watches its clock, and writes and re-reads files on its disk.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "tests/nested/linux_guest.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

// To and fro in each mode; linux_move_long_nested_test asks for more of them.
int Moves() {
  const char* moves = getenv("FERRITE_LINUX_MOVES");
  return moves != nullptr ? std::atoi(moves) : 4;
}

// The emulated machine finds out the frequency of its time stamp counter with an error of some per cent, more of them
// when its host is busy. A clock that was not restored is off by the guest's whole life or by the host's.
constexpr double kClockError = 0.2;
constexpr absl::Duration kClockSlack = absl::Seconds(2);

// What `load` in the guest says, and when.
struct Observation {
  MonotonicTime asked;
  MonotonicTime answered;
  std::map<std::string, uint64_t> figures;
  std::string line;

  uint64_t at(const std::string& name) const {
    const auto found = figures.find(name);
    EXPECT_NE(found, figures.end()) << name << " is missing in: " << line;
    return found == figures.end() ? 0 : found->second;
  }
  absl::Duration clock() const { return absl::Nanoseconds(at("clock_ns")); }
};

class LinuxMoveTest : public ::testing::Test {
 protected:
  LinuxMoveTest() {
    std::filesystem::create_directories(TestRunDir());
    std::filesystem::copy_file("tests/nested/disk.img", disk_, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::permissions(disk_, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
  }

  // Boots the guest and has it work.
  void Start(int cpus) {
    LinuxGuest::Options options;
    options.name = ::testing::UnitTest::GetInstance()->current_test_info()->name();
    options.memory = "128M";
    options.cpus = cpus;
    options.more_arguments = {"--disk", absl::StrCat("id=data,path=", disk_), "--balloon", "0"};
    auto guest = LinuxGuest::Boot(options);
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = std::move(*guest);
    ASSERT_NO_FATAL_FAILURE(Run("mount /dev/vda /mnt"));
    ASSERT_NO_FATAL_FAILURE(Run("load run 32 2 /mnt >/tmp/load.out 2>&1 & true"));
    ASSERT_NO_FATAL_FAILURE(Run("while ! grep -q works /tmp/load.out; do usleep 10000; done"));
    ASSERT_NO_FATAL_FAILURE(WorksOn());
  }

  std::string Run(absl::string_view line) {
    auto answer = guest_->Run(line);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : "";
  }

  Observation Observe() {
    Observation seen;
    seen.asked = MonotonicTime::Now();
    // Errors are told in the line.
    seen.line = Run("load status; true");
    seen.answered = MonotonicTime::Now();
    for (const absl::string_view word : absl::StrSplit(seen.line, ' ')) {
      const std::pair<std::string, std::string> figure = absl::StrSplit(word, absl::MaxSplits('=', 1));
      uint64_t value = 0;
      if (absl::SimpleAtoi(figure.second, &value)) {
        seen.figures[figure.first] = value;
      }
    }
    return seen;
  }

  // The guest gets on with its memory and with its disk, and has found nothing wrong so far.
  void WorksOn() {
    const Observation first = Observe();
    const MonotonicTime deadline = MonotonicTime::Now() + kCommandDeadline;
    Observation now = Observe();
    while (MonotonicTime::Now() < deadline &&
           (now.at("pages") == first.at("pages") || now.at("files") == first.at("files"))) {
      now = Observe();
    }
    ASSERT_GT(now.at("pages"), first.at("pages")) << now.line;
    ASSERT_GT(now.at("files"), first.at("files")) << now.line;
    ASSERT_EQ(now.at("errors"), 0u) << now.line;
  }

  // R1: nothing that the guest sees is older than the switchover, its clock included.
  static void ExpectClockWentOn(const Observation& before, const Observation& after, absl::Duration downtime) {
    const absl::Duration elapsed = after.clock() - before.clock();
    EXPECT_LE(elapsed, (after.answered - before.asked) * (1 + kClockError) + kClockSlack) << after.line;
    EXPECT_GE(elapsed, (after.asked - before.answered) * (1 - kClockError) - downtime - kClockSlack) << after.line;
  }

  Json Info() {
    const auto info = guest_->Command("info", {"--json"});
    EXPECT_TRUE(info.ok() && info->code == 0) << info.status();
    return info.ok() ? Json::parse(info->output, nullptr, /*allow_exceptions=*/false) : Json();
  }

  // Starts a move that takes its time, and waits until it sends memory.
  void StartSlowMove(const std::string& bandwidth, std::unique_ptr<Program>* move) {
    ASSERT_EQ(guest_->StartReceiver(), absl::OkStatus());
    auto started = guest_->StartMove({"--mode", "precopy", "--max-bandwidth", bandwidth, "--downtime-limit", "2s"});
    ASSERT_TRUE(started.ok()) << started.status();
    *move = std::move(*started);
    const MonotonicTime deadline = MonotonicTime::Now() + kCommandDeadline;
    Json status = Info()["move"];
    while (MonotonicTime::Now() < deadline && (status.is_null() || status["state"] != "active")) {
      status = Info()["move"];
    }
    ASSERT_EQ(status["state"], "active");
  }

  // One move under load; the account.
  void MoveOnce(const std::string& mode, Json* report) {
    const Observation before = Observe();
    // One emulated processor serves the guest and the move: the rounds shall not have to converge to milliseconds.
    const auto output = guest_->Move({"--json", "--mode", mode, "--downtime-limit", "2s"});
    ASSERT_TRUE(output.ok()) << output.status();
    // R10: who says that the guest has moved has heard it from where the guest runs now.
    EXPECT_EQ(Info()["state"], "running");
    const Observation after = Observe();
    EXPECT_EQ(after.at("errors"), 0u) << after.line;
    const std::vector<std::string> lines = absl::StrSplit(*output, '\n', absl::SkipEmpty());
    const Json last = Json::parse(lines.back(), nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(last.is_object()) << *output;
    ASSERT_EQ(last["guest"], "there") << last;
    *report = last["report"];
    ExpectClockWentOn(before, after, absl::Seconds((*report)["downtime_seconds"].get<double>()));
    ASSERT_NO_FATAL_FAILURE(WorksOn());
    GTEST_LOG_(INFO) << mode << ": total " << (*report)["total_seconds"] << " s, downtime "
                     << (*report)["downtime_seconds"] << " s, " << (*report)["rounds"] << " rounds, "
                     << (*report)["faults"] << " faults; guest: " << after.line;
  }

  // R2: the disk has gone along; nobody else opens it for writing.
  void ExpectDiskIsLocked() {
    const auto thief = Ferrite({"run", "--name", "thief", "--kernel", "external/debian_kernel/vmlinuz", "--mem", "128M",
                                "--console", "none", "--disk", absl::StrCat("path=", disk_)});
    ASSERT_TRUE(thief.ok()) << thief.status();
    EXPECT_EQ(thief->code, 1);
    EXPECT_THAT(thief->output, HasSubstr(disk_));
  }

  // The last word of the guest's own checks, of its file system and of its kernel.
  void End() {
    EXPECT_THAT(Run("load stop"), HasSubstr(" errors=0 "));
    Run("umount /mnt && mount /dev/vda /mnt && md5sum /mnt/load* && umount /mnt");
    // Not what a kernel says of a host that is too busy (stalls, lockups).
    EXPECT_EQ(
        Run("dmesg | grep -E 'kernel BUG|BUG: (unable|Bad)|Oops|general protection|EXT4-fs error|I/O error' || true"),
        "");
    ASSERT_TRUE(guest_->Send("poweroff -f").ok());
    const auto code = guest_->WaitForExit();
    ASSERT_TRUE(code.ok()) << code.status();
    EXPECT_EQ(*code, 0) << guest_->monitor().output();
    EXPECT_FALSE(std::filesystem::exists(guest_->RunDir()));
  }

  const std::string disk_ = absl::StrCat(getenv("TEST_TMPDIR"), "/disk.img");
  std::unique_ptr<LinuxGuest> guest_;
};

// In each mode: the guest finds its memory and its clock right (R1), one monitor has it and its disk (R2), and who says
// that it has moved has heard it from there (R10).
TEST_F(LinuxMoveTest, AutoToAndFro) {
  const int moves = Moves();
  ASSERT_GT(moves, 0);
  ASSERT_NO_FATAL_FAILURE(Start(1));
  for (int i = 0; i < moves; ++i) {
    SCOPED_TRACE(absl::StrCat("move ", i));
    Json report;
    ASSERT_NO_FATAL_FAILURE(MoveOnce("auto", &report));
  }
  ASSERT_NO_FATAL_FAILURE(ExpectDiskIsLocked());
  End();
}

TEST_F(LinuxMoveTest, PrecopyToAndFro) {
  const int moves = Moves();
  ASSERT_GT(moves, 0);
  ASSERT_NO_FATAL_FAILURE(Start(1));
  for (int i = 0; i < moves; ++i) {
    SCOPED_TRACE(absl::StrCat("move ", i));
    Json report;
    ASSERT_NO_FATAL_FAILURE(MoveOnce("precopy", &report));
    EXPECT_EQ(report["postcopy"], false);
    EXPECT_EQ(report["faults"], 0);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectDiskIsLocked());
  End();
}

TEST_F(LinuxMoveTest, PostcopyToAndFroWithTwoCpus) {
  const int moves = Moves();
  ASSERT_GT(moves, 0);
  ASSERT_NO_FATAL_FAILURE(Start(2));
  for (int i = 0; i < moves; ++i) {
    SCOPED_TRACE(absl::StrCat("move ", i));
    Json report;
    ASSERT_NO_FATAL_FAILURE(MoveOnce("postcopy", &report));
    EXPECT_EQ(report["postcopy"], true);
    EXPECT_GT(report["faults"], 0);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectDiskIsLocked());
  End();
}

// R3: a move that is cancelled in its middle leaves the guest at work, and the next one succeeds. R8: a balloon that is
// asked for while the guest moves is there afterwards.
TEST_F(LinuxMoveTest, CancelledMoveAndBalloonDuringTheNext) {
  ASSERT_NO_FATAL_FAILURE(Start(1));
  std::unique_ptr<Program> move;
  ASSERT_NO_FATAL_FAILURE(StartSlowMove("2M", &move));
  const auto cancelled = guest_->Command("move", {"--cancel"});
  ASSERT_TRUE(cancelled.ok() && cancelled->code == 0) << cancelled.status();
  auto code = move->Wait(kCommandDeadline);
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 1) << move->output();
  EXPECT_THAT(move->output(), HasSubstr("runs on here"));
  const auto receiver = guest_->EndReceiver();
  ASSERT_TRUE(receiver.ok()) << receiver.status();
  EXPECT_THAT(*receiver, HasSubstr("no machine arrived"));
  ASSERT_NO_FATAL_FAILURE(WorksOn());

  ASSERT_NO_FATAL_FAILURE(StartSlowMove("16M", &move));
  const auto asked = guest_->Command("balloon", {"16M"});
  ASSERT_TRUE(asked.ok() && asked->code == 0) << asked.status();
  code = move->Wait(kMoveDeadline);
  ASSERT_TRUE(code.ok()) << code.status();
  ASSERT_EQ(*code, 0) << move->output();
  ASSERT_EQ(guest_->Arrive(), absl::OkStatus());
  const auto reached = guest_->Command("balloon", {"16M", "--wait", "--timeout", "150"});
  ASSERT_TRUE(reached.ok()) << reached.status();
  EXPECT_EQ(reached->code, 0) << reached->output;
  EXPECT_THAT(reached->output, HasSubstr("actual 16M"));
  ASSERT_NO_FATAL_FAILURE(WorksOn());
  ASSERT_NO_FATAL_FAILURE(ExpectDiskIsLocked());
  End();
}

}  // namespace
}  // namespace ferrite
