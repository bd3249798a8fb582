// Whole moves of a real machine on a host that has no room for one more thread or descriptor, at each of the places
// where one is made: the guest runs on at one side, and moves when there is room again (R2, R3). And to a monitor that
// is refused an allocation, at each place behind GRANT. tests/migration/scarcity_test.cc has the same of the engine
// alone.
#include "tests/fakes/scarcity.h"

#include <capnp/message.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <new>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/out_of_memory.h"
#include "base/pinned_file.h"
#include "devices/block/disk_image.h"
#include "migration/api/move_options.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "proto/state.capnp.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/test_place.h"
#include "tests/fakes/whole_spec.h"
#include "tests/integration/moving_payload.h"
#include "tests/integration/payload_machine.h"
#include "tests/integration/scarce_process.h"
#include "vmm/app/exit_codes.h"
#include "vmm/control/client.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"

namespace ferrite {
namespace {

using migration::MoveMode;
using migration::MoveState;

constexpr absl::Duration kNoDescriptors = absl::Seconds(3);

struct Kind {
  const char* name;
  MoveMode mode;
  Scarce what;
};

class MachineScarcityTest : public testing::TestWithParam<Kind> {};

TEST_P(MachineScarcityTest, GuestRunsOnWhateverCannotBeMade) {
  const bool threads = GetParam().what == Scarce::kThreads;
  MachineConfig config;
  config.memory_bytes = uint64_t{32} << 20;
  config.cpus = 2;
  config.command_line = "mode=step set=2M report_ms=5";
  auto made = MovingPayload::Run("dirty", config);
  ASSERT_TRUE(made.ok()) << made.status();
  MovingPayload& moving = **made;
  const auto filled = moving.here().WaitFor("filled");
  ASSERT_TRUE(filled.ok()) << filled.status();
  int failed = 0;
  // How many descriptors were refused is not known: some moves in a row have all that they need.
  for (int nth = 1, went_well = 0; went_well < (threads ? 1 : 3); nth += ForPlace(1, 6)) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    std::unique_ptr<Scarcity> scarcity;
    const MoveResult result =
        moving.Move({.options = {.mode = GetParam().mode, .patience = threads ? absl::Minutes(1) : kNoDescriptors},
                     .during = [&](migration::Source&, const migration::MoveProgress&) {
                       const Plenty plenty;
                       if (scarcity == nullptr) {
                         scarcity = std::make_unique<Scarcity>(GetParam().what, static_cast<uint64_t>(nth));
                       }
                     }});
    scarcity->End();
    ASSERT_EQ(moving.here().machine().state(), MachineState::kRunning) << result.source << "; " << result.destination;
    if (!result.source.ok()) {
      ++failed;
      went_well = 0;
      EXPECT_EQ(result.source_state, MoveState::kFailed) << "R3: " << result.source;
      // Who has no descriptor for a connection waits for one, as long as the source has patience.
      EXPECT_TRUE(absl::StrContains(absl::StrCat(result.source.message(), result.destination.message()),
                                    threads ? "make the thread " : "open files") ||
                  (!threads && absl::IsDeadlineExceeded(result.source)))
          << result.source << "; " << result.destination;
      const MoveResult second = moving.Move({.options = {.mode = GetParam().mode}});
      ASSERT_TRUE(second.source.ok()) << second.source;
      ASSERT_TRUE(second.destination.ok()) << second.destination;
    } else {
      EXPECT_TRUE(result.destination.ok()) << result.destination;
      went_well += threads && scarcity->refused() > 0 ? 0 : 1;
    }
    const auto check = moving.here().Check();
    ASSERT_TRUE(check.ok()) << check.status();
    ASSERT_LT(nth, 100) << "something is made that nobody needs";
  }
  RecordProperty("failed", failed);
  EXPECT_GE(failed, ForPlace(8, 2));
}

INSTANTIATE_TEST_SUITE_P(All, MachineScarcityTest,
                         testing::Values(Kind{"ThreadsPrecopy", MoveMode::kPrecopy, Scarce::kThreads},
                                         Kind{"ThreadsPostcopy", MoveMode::kPostcopy, Scarce::kThreads},
                                         Kind{"DescriptorsPrecopy", MoveMode::kPrecopy, Scarce::kDescriptors},
                                         Kind{"DescriptorsPostcopy", MoveMode::kPostcopy, Scarce::kDescriptors}),
                         [](const testing::TestParamInfo<Kind>& info) { return info.param.name; });

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr absl::Duration kEndOfMove = absl::Milliseconds(500);

// `ferrite receive`, as people use it, with the memory that a test gives it.
class ScarceReceiver {
 public:
  ScarceReceiver(const std::string& directory, uint64_t nth) : directory_(directory) {
    const std::string path = directory + "/scarce";
    const Fd file(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    FERRITE_CHECK(ftruncate(file.get(), sizeof(ScarceProcess)) == 0);
    void* const memory = mmap(nullptr, sizeof(ScarceProcess), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
    FERRITE_CHECK(memory != MAP_FAILED);
    shared_ = new (memory) ScarceProcess;
    shared_->nth = nth;
    FERRITE_CHECK(setenv(kScarceProcess, path.c_str(), /*replace=*/1) == 0);
    FerriteReceiver started =
        StartFerriteReceiver({"receive", "--name", "there", "--listen", absl::StrCat("unix:", directory, "/there"),
                              "--kernel", PayloadPath("dirty"), "--console",
                              absl::StrCat("unix:", directory, "/console"), "--run-dir", directory + "/run"},
                             /*in_child=*/nullptr, "tests/integration/scarce_ferrite");
    FERRITE_CHECK(unsetenv(kScarceProcess) == 0);
    process_ = std::move(started.process);
    auto address = migration::ParseAddress(started.address);
    FERRITE_CHECK(address.ok());
    address_ = *std::move(address);
  }
  ~ScarceReceiver() { (void)munmap(shared_, sizeof(ScarceProcess)); }

  const migration::Address& address() const { return address_; }
  // False when it is gone.
  bool BecomeScarce() { return Tell(kBecomeScarce, shared_->is_scarce); }
  bool HavePlenty() { return Tell(kHavePlenty, shared_->has_plenty); }
  // Until the thread of the move has ended, or the process; one that lost its source waits for it for longer.
  void AwaitEndOfMove() {
    const auto is_moving = [this] {
      std::error_code error;
      for (const auto& task :
           std::filesystem::directory_iterator(absl::StrCat("/proc/", process_->pid(), "/task"), error)) {
        std::string name;
        std::getline(std::ifstream(task.path() / "comm"), name);
        if (name == "receive") {
          return true;
        }
      }
      return false;
    };
    for (const MonotonicTime deadline = MonotonicTime::Now() + kEndOfMove;
         is_moving() && MonotonicTime::Now() < deadline;) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }
  uint64_t refused() const { return shared_->refused; }
  Finished Wait() { return process_->Wait(); }

  absl::StatusOr<std::unique_ptr<ControlClient>> Connect() {
    return ControlClient::ConnectToMachine(directory_ + "/run", "there", kPatience);
  }
  // What the guest says of all of its memory.
  std::string CheckGuest() {
    const auto cancel = EventFd::Create();
    const auto console = migration::ParseAddress(absl::StrCat("unix:", directory_, "/console"));
    FERRITE_CHECK(cancel.ok() && console.ok());
    auto stream = migration::Connect(*console, kPatience, *cancel);
    if (!stream.ok()) {
      return stream.status().ToString();
    }
    (*stream)->SetPatience(kPatience);
    const uint8_t check = 'c';
    std::string said((*stream)->WriteAll({&check, 1}).ok() ? "" : "cannot ask it; ");
    uint8_t byte = 0;
    while (!absl::StrContains(said, "event=check") || said.back() != '\n') {
      if (const absl::Status read = (*stream)->ReadAll({&byte, 1}); !read.ok()) {
        return absl::StrCat(said, read.message());
      }
      said.push_back(static_cast<char>(byte));
    }
    return said;
  }

 private:
  bool Tell(int signal, const std::atomic<bool>& heard) {
    const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
    process_->Signal(signal);
    while (!heard && MonotonicTime::Now() < deadline && !process_->HasEnded()) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    return heard;
  }

  const std::string directory_;
  ScarceProcess* shared_;
  migration::Address address_;
  std::unique_ptr<FerriteProcess> process_;
};

class MonitorScarcityTest : public testing::TestWithParam<MoveMode> {
 protected:
  // One move in which the `nth` allocation behind GRANT is refused. Returns whether it was.
  bool MoveWithoutTheNth(uint64_t nth) {
    MachineConfig config;
    config.memory_bytes = uint64_t{16} << 20;
    config.command_line = "set=1M idle=1 report_ms=3600000";
    auto made = MovingPayload::Run("dirty", config);
    FERRITE_CHECK(made.ok());
    MovingPayload& moving = **made;
    FERRITE_CHECK(moving.here().WaitFor("filled").ok());
    ScarceReceiver there(moving.directory(), nth);
    const MoveResult result = moving.MoveTo(
        there.address(), {.options = {.mode = GetParam()}, .on_grant = [&] { (void)there.BecomeScarce(); }});
    SCOPED_TRACE(result.source.ToString());
    if (!result.source.ok()) {
      EXPECT_EQ(result.source_state, MoveState::kFailed) << "R3, R4: the guest runs nowhere";
      const auto check = moving.here().Check();
      EXPECT_TRUE(check.ok()) << check.status();
      const Finished end = there.Wait();
      EXPECT_EQ(end.exit_code, kExitFailure) << end.err;
      EXPECT_TRUE(absl::StrContains(end.err, "no machine arrived")) << end.err;
      return true;
    }
    EXPECT_EQ(result.source_state, MoveState::kCompleted);
    // What the monitor does last when a machine has come needs memory, too.
    there.AwaitEndOfMove();
    if (!there.HavePlenty()) {
      const Finished end = there.Wait();
      ADD_FAILURE() << "R1: the guest went to a monitor that ended with " << end.exit_code << ": " << end.err;
      return true;
    }
    EXPECT_TRUE(absl::StrContains(there.CheckGuest(), " errors=0")) << there.CheckGuest();
    // One that waits for its source still ends before it has answered.
    absl::Status stopped;
    const auto client = there.Connect();
    EXPECT_TRUE(client.ok()) << client.status();
    if (client.ok()) {
      const auto machine = (*client)->Describe();
      EXPECT_TRUE(machine.ok()) << machine.status();
      EXPECT_TRUE(machine.ok() && machine->state == MachineState::kRunning);
      // It can go on from there, and be asked for anything.
      EXPECT_TRUE((*client)->Pause().ok());
      EXPECT_TRUE((*client)->Resume().ok());
      stopped = (*client)->Stop(/*force=*/false);
    }
    const Finished end = there.Wait();
    EXPECT_EQ(end.exit_code, kExitOk) << end.err << stopped;
    return there.refused() > 0;
  }
};

TEST_P(MonitorScarcityTest, GuestThatWasGrantedIsNotLostForWantOfMemory) {
  int tried = 0;
  uint64_t nth = 1;
  for (bool refused = true; refused; nth += ForPlace<uint64_t>(1 + nth / 32, 40), ++tried) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    refused = MoveWithoutTheNth(nth);
    ASSERT_FALSE(HasFailure());
    ASSERT_LT(nth, 5000u) << "something is refused that nobody needs";
  }
  RecordProperty("moves", static_cast<int>(tried));
  EXPECT_GT(tried, ForPlace(15, 1)) << "nothing was refused";
}

INSTANTIATE_TEST_SUITE_P(Modes, MonitorScarcityTest, testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy),
                         [](const testing::TestParamInfo<MoveMode>& info) {
                           return info.param == MoveMode::kPostcopy ? "Postcopy" : "Precopy";
                         });

// A reset that the guest asked for ends with the machine where there is no memory for it, and the process goes on.
TEST(ResetScarcityTest, GuestsResetFailsByItself) {
  const Plenty plenty;
  auto there = PayloadMachine::Await();
  ASSERT_TRUE(there.ok()) << there.status();
  // The loop waits until there is memory: what it is refused ends nothing.
  (*there)->host().loop.RunAndWait([] { has_plenty = true; });
  MachineConfig config;
  config.name = "guest";
  config.memory_bytes = uint64_t{16} << 20;
  config.command_line = "do=reset";
  config.kernel_path = PayloadPath("fault");
  int failed = 0;
  for (uint64_t nth = 1; nth <= 8; ++nth) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    auto machine = Machine::Create(config, (*there)->host().kvm, (*there)->host().loop, nullptr);
    ASSERT_TRUE(machine.ok()) << machine.status();
    ASSERT_EQ((*machine)->Boot(), absl::OkStatus());
    Scarcity scarcity(Scarce::kMemory, nth);
    ASSERT_EQ((*machine)->Resume(), absl::OkStatus());
    const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(60);
    while (scarcity.refused() == 0) {
      ASSERT_LT(MonotonicTime::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(1));
    }
    scarcity.End();
    const StopInfo info = (*machine)->WaitUntilStopped();
    EXPECT_EQ(info.reason, StopReason::kError) << info.details;
    EXPECT_TRUE(absl::StartsWith(info.details, "reset by the guest: ")) << info.details;
    failed += absl::StrContains(info.details, "no memory left") ? 1 : 0;
  }
  EXPECT_GE(failed, 1);
}

// R3: the source takes them again when it hears that they could not be had.
TEST(ArrivalScarcityTest, DisksAreFreeAgainWhereverMemoryEnds) {
  const Plenty plenty;
  char name[] = "/tmp/ferrite-scarce-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  const std::string directory = name;
  const absl::Cleanup remove = [&] { std::filesystem::remove_all(directory); };
  MachineConfig config;
  config.memory_bytes = uint64_t{16} << 20;
  config.command_line = "mode=step set=4M report_ms=10";
  config.reboot_on_reset = false;
  for (const char* id : {"root", "data"}) {
    const std::string path = absl::StrCat(directory, "/", id);
    std::ofstream(path).close();
    ASSERT_EQ(truncate(path.c_str(), 1 << 20), 0);
    config.devices.push_back(DiskConfig{.id = id, .path = path});
  }
  auto source = PayloadMachine::Run("dirty", config);
  ASSERT_TRUE(source.ok()) << source.status();
  auto there = PayloadMachine::Await();
  ASSERT_TRUE(there.ok()) << there.status();
  const Fd run_directory(open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MachineSource port((*source)->machine(), run_directory);
  const auto spec = migration::WholeSpec(port);
  ASSERT_TRUE(spec.ok()) << spec.status();
  auto arrival = MachineArrival::Create({.kvm = (*there)->host().kvm, .loop = (*there)->host().loop},
                                        {.name = "guest", .disk_from = {directory}});
  ASSERT_TRUE(arrival.ok()) << arrival.status();
  auto destination = (*arrival)->Build(*spec);
  ASSERT_TRUE(destination.ok()) << destination.status();
  Machine& machine = *(*arrival)->machine();
  ASSERT_EQ((*source)->machine().Pause(), absl::OkStatus());
  ASSERT_EQ((*source)->machine().moving().ReleaseDisks({}), absl::OkStatus());

  const auto in_use = [](const std::string& path) {
    const auto file = PinnedFile::Find(path, PinnedFile::Links::kAll);
    return DiskImage::LookAt(*file, /*read_only=*/false)->in_use;
  };
  uint64_t refused = 1;
  uint64_t failed = 0;
  for (uint64_t nth = 1; refused > 0; ++nth) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    ASSERT_LT(nth, 200u);
    Scarcity scarcity(Scarce::kMemory, nth);
    has_plenty = false;
    const absl::Status status = CatchOutOfMemory([&] { return (*destination)->resources().AcquireDisks(); });
    has_plenty = true;
    scarcity.End();
    refused = scarcity.refused();
    failed += status.ok() ? 0 : 1;
    for (const DiskConfig* disk : config.all<DiskConfig>()) {
      EXPECT_EQ(in_use(disk->path), status.ok()) << disk->id << ": " << status;
    }
    ASSERT_EQ(machine.moving().ReleaseDisks({}), absl::OkStatus());
  }
  EXPECT_GE(failed, 2u) << "nothing was refused: what is this test about?";
}

}  // namespace
}  // namespace ferrite
