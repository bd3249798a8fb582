// Moves of real machines that go wrong: refused, cancelled, cut, killed. The guest runs on where it was with all that
// it has (R3), and then it moves.
#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "devices/block/disk_image.h"
#include "migration/api/move_options.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/test_thread.h"
#include "tests/integration/moving_payload.h"
#include "vmm/move/mover.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

using migration::MoveMode;
using migration::MoveState;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class MoveFailureTest : public testing::Test {
 protected:
  void SetUp() override {
    MachineConfig config;
    config.memory_bytes = 64 * kMiB;
    config.cpus = 2;
    config.command_line = "mode=step set=8M report_ms=10";
    auto moving = MovingPayload::Run("dirty", config);
    ASSERT_TRUE(moving.ok()) << moving.status();
    moving_ = *std::move(moving);
    const auto filled = moving_->here().WaitFor("filled");
    ASSERT_TRUE(filled.ok()) << filled.status();
  }

  void ExpectChecked() {
    const auto check = moving_->here().Check();
    EXPECT_TRUE(check.ok()) << check.status();
  }

  void ExpectStayed(const MoveResult& result) {
    EXPECT_FALSE(result.source.ok());
    EXPECT_TRUE(result.source_state == MoveState::kFailed || result.source_state == MoveState::kCancelled)
        << MoveStateName(result.source_state);
    ASSERT_EQ(moving_->here().machine().state(), MachineState::kRunning) << "R3: " << result.source;
    ExpectChecked();
  }
  void ExpectRefused(const MoveResult& result, absl::string_view reason) {
    EXPECT_TRUE(absl::StrContains(result.source.message(), reason)) << result.source;
    EXPECT_EQ(result.source_state, MoveState::kFailed);
    EXPECT_EQ(moving_->here().machine().state(), MachineState::kRunning) << "R3";
  }
  void ExpectMoves(MoveMode mode = MoveMode::kAuto) {
    const MoveResult result = moving_->Move({.options = {.mode = mode}});
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    EXPECT_EQ(moving_->here().machine().state(), MachineState::kRunning);
    ExpectChecked();
  }

  // For good.
  void Cut() {
    moving_->relay().Close();
    moving_->relay().Cut();
  }

  std::unique_ptr<MovingPayload> moving_;
};

// Before a byte of RAM went, with a reason that the user at the source reads (R7).
TEST_F(MoveFailureTest, RefusalsNameTheReasonAndTheGuestRunsOn) {
  using Description = state::MachineDescription::Builder;
  const std::pair<const char*, std::function<void(Description)>> refusals[] = {
      {"which this host does not offer",
       [](Description out) {
         for (auto leaf : out.getCpuid()) {
           if (leaf.getFunction() == 1) {
             leaf.setEcx(0xffff'ffff);
           }
         }
       }},
      {"vendor",
       [](Description out) {
         for (auto leaf : out.getCpuid()) {
           if (leaf.getFunction() == 0) {
             leaf.setEbx(1);
           }
         }
       }},
      {"more than this host's", [](Description out) { out.getMemory().setBytes(uint64_t{1} << 42); }},
      {"memory region ram-low has 67108864 bytes", [](Description out) { out.getMemory().setBytes(32 * kMiB); }},
      {"paper", [](Description out) { out.getMemory().setBacking("paper"); }},
      {"vCPUs", [](Description out) { out.setCpus(33); }},
      {"the machine's state has version 99", [](Description out) { out.setStateVersion(99); }},
      {"serial0 has state version 7", [](Description out) { out.getDevices()[0].setVersion(7); }},
      {"virtio-toaster", [](Description out) { out.getDevices()[0].setName("virtio-toaster"); }},
      {"lacks the device power",
       [](Description out) {
         auto devices = out.initDevices(1);
         devices[0].setName("serial0");
         devices[0].setVersion(1);
       }},
      {"disk root: its image cannot be used here",
       [](Description out) {
         auto devices = out.initDevices(3);
         devices[0].setName("virtio-blk:root");
         devices[1].setName("serial0");
         devices[2].setName("power");
         auto disks = out.initDisks(1);
         disks[0].setId("root");
         disks[0].setPath("/nowhere/root.img");
         disks[0].setBytes(512);
       }},
  };
  for (const auto& [reason, spoil] : refusals) {
    SCOPED_TRACE(reason);
    const MoveResult result = moving_->Move({.on_describe = spoil});
    ExpectRefused(result, reason);
    EXPECT_EQ(result.report.bytes, 0u) << "memory was sent";
  }
  ExpectRefused(moving_->Move({.arrival = {.disk_paths = {{"data", "/dev/null"}}}}), "no disk with the id data");
  ExpectMoves();
}

// A state with something changed in it.
void Rewrite(std::vector<uint8_t>& blob, const std::function<void(state::Machine::Builder)>& change) {
  capnp::MallocMessageBuilder message;
  const absl::Status read = DecodeState(blob, [&](state::Machine::Reader state) {
    message.setRoot(state);
    return absl::OkStatus();
  });
  ASSERT_TRUE(read.ok()) << read;
  change(message.getRoot<state::Machine>());
  blob = EncodeState(message);
}

TEST_F(MoveFailureTest, PackageThatIsCutDamagedOrUnknownIsRefusedWhole) {
  using State = state::Machine::Builder;
  const auto rewrite = [](std::function<void(State)> change) {
    return [change = std::move(change)](std::vector<uint8_t>& blob) { Rewrite(blob, change); };
  };
  const std::pair<const char*, std::function<void(std::vector<uint8_t>&)>> packages[] = {
      {"damaged", [](std::vector<uint8_t>& blob) { blob.resize(blob.size() / 16 * 8); }},
      {"no whole number of words", [](std::vector<uint8_t>& blob) { blob.resize(blob.size() - 3); }},
      {"state", [](std::vector<uint8_t>& blob) { blob.clear(); }},
      {"damaged", [](std::vector<uint8_t>& blob) { std::memset(&blob[8], 0xff, 8); }},
      {"version 99", rewrite([](State state) { state.setVersion(99); })},
      {"virtio-toaster", rewrite([](State state) { state.getDevices()[0].setName("virtio-toaster"); })},
      {"serial0", rewrite([](State state) { state.getDevices()[0].setVersion(77); })},
      {"serial0", rewrite([](State state) { state.getDevices()[0].initPower(); })},
      {"device", rewrite([](State state) { state.initDevices(0); })},
      {"vCPU", rewrite([](State state) { state.initVcpus(1); })},
      {"regs", rewrite([](State state) { state.getVcpus()[1].initRegs(8); })},
  };
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    for (const auto& [reason, spoil] : packages) {
      SCOPED_TRACE(reason);
      ExpectRefused(moving_->Move({.options = {.mode = mode}, .on_package = spoil}), reason);
    }
    ExpectChecked();
  }
  ExpectMoves();
}

TEST_F(MoveFailureTest, CancelInEachStateAndMoveAgain) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    for (const MoveState at : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice}) {
      SCOPED_TRACE(absl::StrCat(MoveStateName(at), mode == MoveMode::kPrecopy ? ", pre-copy" : ", post-copy"));
      const auto cancel = [](migration::Source& source) { EXPECT_TRUE(source.Cancel().ok()); };
      const MoveResult result =
          moving_->Move({.options = {.mode = mode},
                         .during =
                             [&](migration::Source& source, const migration::MoveProgress& progress) {
                               if (progress.state == at && at != MoveState::kDevice) {
                                 cancel(source);
                               }
                             },
                         .on_save = at == MoveState::kDevice ? cancel : std::function<void(migration::Source&)>()});
      EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
      EXPECT_NE(result.destination_state, MoveState::kCompleted);
      ExpectStayed(result);
    }
    ExpectMoves(mode);
  }
}

// A bandwidth so low that the move ends by the cancel, not by itself: the wait for bandwidth must not hold it up.
TEST_F(MoveFailureTest, CancelDoesNotWaitForBandwidth) {
  Thread canceller;
  const MoveResult result =
      moving_->Move({.options = {.mode = MoveMode::kPrecopy, .max_bandwidth = 1},
                     .during = [&](migration::Source& source, const migration::MoveProgress& progress) {
                       if (progress.state == MoveState::kActive && !canceller.joinable()) {
                         canceller = StartOrDie("canceller", [&source] {
                           while (source.progress().sent_bytes == 0) {
                             absl::SleepFor(absl::Milliseconds(1));
                           }
                           EXPECT_TRUE(source.Cancel().ok());
                         });
                       }
                     }});
  canceller.Join();
  EXPECT_EQ(result.source_state, MoveState::kCancelled) << result.source;
  ExpectStayed(result);
  ExpectMoves();
}

TEST_F(MoveFailureTest, CutConnectionLeavesTheGuestAndItMovesAgain) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    for (const MoveState at : {MoveState::kSetup, MoveState::kActive, MoveState::kDevice}) {
      SCOPED_TRACE(absl::StrCat(MoveStateName(at), mode == MoveMode::kPrecopy ? ", pre-copy" : ", post-copy"));
      const MoveResult result =
          moving_->Move({.options = {.mode = mode, .max_bandwidth = 64 * kMiB, .recover_for = absl::Milliseconds(100)},
                         .hold_for = absl::Milliseconds(100),
                         .relayed = true,
                         .during =
                             [&](migration::Source&, const migration::MoveProgress& progress) {
                               if (progress.state == at && at == MoveState::kActive) {
                                 Cut();
                               }
                             },
                         .built =
                             [&](Machine&) {
                               if (at == MoveState::kSetup) {
                                 Cut();
                               }
                             },
                         .on_save =
                             [&](migration::Source&) {
                               if (at == MoveState::kDevice) {
                                 Cut();
                               }
                             }});
      EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
      EXPECT_FALSE(result.destination.ok());
      ExpectStayed(result);
    }
    ExpectMoves(mode);
  }
}

// R2, R4: it may run there, so it does not run here.
TEST_F(MoveFailureTest, CutConnectionAfterTheGrantLeavesTheSourcePaused) {
  Machine* there = nullptr;
  const MoveResult result = moving_->Move(
      {.options = {.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = kMiB, .recover_for = absl::Milliseconds(100)},
       .relayed = true,
       .during =
           [&](migration::Source&, const migration::MoveProgress& progress) {
             if (progress.state == MoveState::kPostcopyActive) {
               EXPECT_EQ(there->state(), MachineState::kRunning);
               Cut();
             }
           },
       .built = [&](Machine& machine) { there = &machine; }});
  EXPECT_EQ(result.source_state, MoveState::kPostcopyPaused) << result.source;
  EXPECT_EQ(result.destination_state, MoveState::kPostcopyPaused) << result.destination;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "keeps the guest's memory")) << result.source;
  Machine& here = moving_->here().machine();
  EXPECT_EQ(here.state(), MachineState::kPaused);
  EXPECT_EQ(here.Resume().code(), absl::StatusCode::kFailedPrecondition) << "R2";
  EXPECT_EQ(here.Reset().code(), absl::StatusCode::kFailedPrecondition) << "R2";
  const MoveResult again = moving_->Move({});
  EXPECT_FALSE(again.source.ok());
  EXPECT_EQ(here.state(), MachineState::kPaused) << "R2";
  std::ifstream record(moving_->directory() + "/grant");
  std::string word;
  EXPECT_TRUE(record >> word && word == "move");
}

// R4: a connection that comes back loses nothing.
TEST_F(MoveFailureTest, CutConnectionAfterTheGrantIsFoundAgain) {
  int cuts = 0;
  const MoveResult result =
      moving_->Move({.options = {.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 32 * kMiB},
                     .relayed = true,
                     .during = [&](migration::Source&, const migration::MoveProgress& progress) {
                       if (progress.state == MoveState::kPostcopyActive && cuts++ == 0) {
                         moving_->relay().Cut();
                       }
                     }});
  ASSERT_TRUE(result.source.ok()) << result.source;
  ASSERT_TRUE(result.destination.ok()) << result.destination;
  EXPECT_GE(result.report.recoveries, 1u);
  ExpectChecked();
  ExpectMoves();
}

// Moves of a machine with a disk that fail when the source has given the disk up: the destination refuses the package.
class DiskTakeBackTest : public testing::Test {
 protected:
  void SetUp() override {
    MachineConfig config;
    config.memory_bytes = 64 * kMiB;
    config.command_line = "mode=step set=4M report_ms=10";
    disk_ = absl::StrCat(testing::TempDir(), "/take-back.img");
    std::ofstream(disk_).close();
    ASSERT_EQ(truncate(disk_.c_str(), kMiB), 0);
    config.devices = {DiskConfig{.id = "root", .path = disk_}};
    auto moving = MovingPayload::Run("dirty", config);
    ASSERT_TRUE(moving.ok()) << moving.status();
    moving_ = *std::move(moving);
  }
  Machine& machine() { return moving_->here().machine(); }

  // As somebody else would.
  void Hold() {
    auto image = DiskImage::Create(disk_, /*read_only=*/true);
    ASSERT_TRUE(image.ok()) << image.status();
    holder_ = *std::move(image);
  }
  MoveResult FailingMove(std::function<void()> on_take_back) {
    return moving_->Move({.on_release = [this] { Hold(); },
                          .on_take_back = std::move(on_take_back),
                          .on_package = [](std::vector<uint8_t>& blob) { blob.clear(); }});
  }
  void ExpectMoves() {
    const MoveResult result = moving_->Move({});
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    const auto check = moving_->here().Check();
    EXPECT_TRUE(check.ok()) << check.status();
  }

  std::string disk_;
  std::unique_ptr<DiskImage> holder_;
  std::unique_ptr<MovingPayload> moving_;
};

TEST_F(DiskTakeBackTest, DiskThatSomebodyElseKeepsCostsNoMoreThanAPause) {
  const MoveResult result = FailingMove(nullptr);
  EXPECT_EQ(result.source_state, MoveState::kFailed);
  EXPECT_TRUE(absl::StrContains(result.source.message(), "the guest did not go on here")) << result.source;
  EXPECT_TRUE(absl::StrContains(result.source.message(), "is in use by")) << result.source;
  EXPECT_FALSE(absl::StrContains(result.source.message(), "runs on")) << result.source;
  EXPECT_EQ(machine().state(), MachineState::kPaused);
  EXPECT_NE(access((moving_->directory() + "/grant").c_str(), F_OK), 0);
  auto directory = OpenFile(moving_->directory(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine(), *std::move(directory), /*console_socket=*/"", nullptr);
  for (const absl::Status& refused : {machine().Resume(), mover.Start("unix:/nobody", {}, {})}) {
    EXPECT_TRUE(absl::StrContains(refused.message(), "is in use by")) << refused;
  }
  EXPECT_EQ(machine().state(), MachineState::kPaused);
  holder_.reset();
  ASSERT_EQ(machine().Resume(), absl::OkStatus());
  ExpectMoves();
}

TEST_F(DiskTakeBackTest, DiskThatSomebodyElseHasForAMomentIsWaitedFor) {
  Thread holder;
  const MoveResult result = FailingMove([&] {
    holder = StartOrDie("holder", [this] {
      absl::SleepFor(absl::Milliseconds(300));
      holder_.reset();
    });
  });
  holder.Join();
  EXPECT_EQ(result.source_state, MoveState::kFailed);
  EXPECT_EQ(machine().state(), MachineState::kRunning) << "R3: " << result.source;
  ExpectMoves();
}

TEST_F(DiskTakeBackTest, StopOfTheMachineEndsTheWaitForADisk) {
  Thread stopper;
  const MonotonicTime start = MonotonicTime::Now();
  const MoveResult result =
      FailingMove([&] { stopper = StartOrDie("stopper", [this] { moving_->here().machine().Stop(); }); });
  stopper.Join();
  EXPECT_EQ(machine().state(), MachineState::kStopped) << result.source;
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(4));
}

// A `ferrite receive` of its own process.
class Receiver {
 public:
  explicit Receiver(const std::string& directory) {
    FerriteReceiver started =
        StartFerriteReceiver({"receive", "--name", "guest", "--listen", absl::StrCat("unix:", directory, "/receiver"),
                              "--console", "none", "--run-dir", directory, "--kernel", PayloadPath("dirty")});
    process_ = std::move(started.process);
    const auto parsed = migration::ParseAddress(started.address);
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    address_ = parsed.value_or(migration::Address{});
  }
  const migration::Address& address() const { return address_; }
  void Kill() {
    process_->Signal(SIGKILL);
    (void)process_->Wait();
  }

 private:
  std::unique_ptr<FerriteProcess> process_;
  migration::Address address_;
};

TEST_F(MoveFailureTest, KilledDestinationLeavesTheGuestAndItMovesAgain) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    for (const MoveState at : {MoveState::kActive, MoveState::kDevice}) {
      SCOPED_TRACE(absl::StrCat(MoveStateName(at), mode == MoveMode::kPrecopy ? ", pre-copy" : ", post-copy"));
      Receiver receiver(moving_->directory());
      const MoveResult result = moving_->MoveTo(
          receiver.address(),
          {.options = {.mode = mode, .max_bandwidth = 64 * kMiB, .recover_for = absl::Milliseconds(100)},
           .during =
               [&](migration::Source&, const migration::MoveProgress& progress) {
                 if (progress.state == at && at == MoveState::kActive && progress.round == 0) {
                   receiver.Kill();
                 }
               },
           .on_save =
               [&](migration::Source&) {
                 if (at == MoveState::kDevice) {
                   receiver.Kill();
                 }
               }});
      EXPECT_EQ(result.source_state, MoveState::kFailed) << result.source;
      ExpectStayed(result);
    }
    ExpectMoves(mode);
  }
}

TEST_F(MoveFailureTest, HandOverThatCannotBeRecordedFailsTheMove) {
  // In its place: a directory cannot be replaced by a file.
  const std::string record = moving_->directory() + "/grant";
  ASSERT_EQ(mkdir(record.c_str(), 0700), 0);
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    const MoveResult result = moving_->Move({.options = {.mode = mode}});
    EXPECT_TRUE(absl::StrContains(result.source.message(), "record the hand-over")) << result.source;
    ExpectStayed(result);
  }
  ASSERT_EQ(rmdir(record.c_str()), 0);
  ExpectMoves();
}

TEST_F(MoveFailureTest, FullDiskForTheRecordFailsTheMove) {
  const std::string& directory = moving_->directory();
  if (mount("none", directory.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "A FULL DISK IS NOT TESTED: mounting a small tmpfs needs root: " << std::strerror(errno);
  }
  const absl::Cleanup unmount = [&] { EXPECT_EQ(umount2(directory.c_str(), MNT_DETACH), 0); };
  const std::string filler = directory + "/filler";
  std::ofstream(filler) << std::string(256 << 10, 'x') << std::flush;
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    const MoveResult result = moving_->Move({.options = {.mode = mode}, .tcp = true});
    EXPECT_TRUE(absl::StrContains(result.source.message(), "No space left on device")) << result.source;
    EXPECT_TRUE(absl::StrContains(result.source.message(), "record the hand-over")) << result.source;
    ExpectStayed(result);
  }
  ASSERT_EQ(unlink(filler.c_str()), 0);
  ExpectMoves();
}

}  // namespace
}  // namespace ferrite
