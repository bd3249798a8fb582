// The machine on real KVM, with payload guests (tests/guest).
#include "vmm/machine/machine.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/monotonic.h"
#include "memory/page_bitmap.h"
#include "tests/fakes/machine_harness.h"
#include "tests/fakes/test_place.h"
#include "vmm/kvm/kvm_abi.h"
#include "vmm/machine/movable_machine.h"

namespace {

// How many calls of KVM_RUN are refused from now on, with EAGAIN; none any more after a time that no test needs, so
// that one in which nothing else ends it is not one that hangs.
std::atomic<int64_t> refused_runs{0};
std::atomic<int64_t> refused_until_ns{0};

void RefuseRuns(int64_t count) {
  refused_until_ns = ferrite::MonotonicNs() + 20'000'000'000;
  refused_runs = count;
}

bool RefusesRun() {
  if (refused_runs <= 0) {
    return false;
  }
  if (ferrite::MonotonicNs() > refused_until_ns) {
    refused_runs = 0;
    return false;
  }
  --refused_runs;
  return true;
}

}  // namespace

// In place of libc's.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  if (request == KVM_RUN && RefusesRun()) {
    errno = EAGAIN;
    return -1;
  }
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MachineTest : public testing::Test {
 protected:
  // A running machine.
  std::unique_ptr<Machine> Start(const MachineConfig& config) {
    std::unique_ptr<Machine> machine = harness_.Create(config, &console_);
    EXPECT_EQ(machine->Boot().ToString(), "OK");
    EXPECT_EQ(machine->Resume().ToString(), "OK");
    return machine;
  }

  // What the guest found wrong.
  static std::vector<std::string> Errors(const GuestConsole& console) {
    std::vector<std::string> errors;
    for (const GuestLine& line : console.lines()) {
      if (line.event() == "error" || line.event() == "fail") {
        errors.push_back(line.text());
      }
    }
    return errors;
  }

  // A report of the count guest on each vCPU that no call has seen yet: the counts.
  static std::vector<uint64_t> NextCounts(GuestConsole& console, uint32_t cpus) {
    std::map<uint64_t, uint64_t> counts;
    while (counts.size() < cpus) {
      const std::optional<GuestLine> line = console.Next("count");
      if (!line.has_value()) {
        ADD_FAILURE() << "only " << counts.size() << " of " << cpus << " vCPUs count";
        return std::vector<uint64_t>(cpus);
      }
      counts[line->Number("cpu")] = line->Number("count");
    }
    std::vector<uint64_t> result;
    for (const auto& [cpu, count] : counts) {
      result.push_back(count);
    }
    return result;
  }

  MachineHarness harness_;
  GuestConsole console_;
};

TEST_F(MachineTest, GuestRunsAndPowersOff) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "report_ms=1 reports=3"));
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kPowerOff);
  EXPECT_EQ(machine->state(), MachineState::kStopped);
  EXPECT_TRUE(console_.Next("done").has_value());
  EXPECT_THAT(Errors(console_), IsEmpty());
  EXPECT_GT(machine->first_entry_ns(), 0);
}

TEST_F(MachineTest, FirstEntryCountsFromWhereItWasToldTo) {
  constexpr int64_t kMinute = 60'000'000'000;
  MachineConfig config = MachineHarness::Config("count", "reports=1");
  config.started_ns = MonotonicNs() - kMinute;
  const std::unique_ptr<Machine> machine = Start(config);
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kPowerOff);
  EXPECT_EQ(machine->started_ns(), config.started_ns);
  EXPECT_GT(machine->first_entry_ns(), kMinute);
}

class MachineCpusTest : public MachineTest, public testing::WithParamInterface<uint32_t> {
 protected:
  // The guest's vCPUs spin for the console: the more there are, the less often each reports.
  static MachineConfig Config() {
    return MachineHarness::Config("count", absl::StrCat("report_ms=", 60 * GetParam()), GetParam());
  }
};
INSTANTIATE_TEST_SUITE_P(Cpus, MachineCpusTest, testing::Values(1, 2, 8));

TEST_P(MachineCpusTest, AllRunAndPauseStopsAllOfThem) {
  const std::unique_ptr<Machine> machine = Start(Config());
  NextCounts(console_, GetParam());
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  EXPECT_EQ(machine->state(), MachineState::kPaused);
  const size_t lines = console_.line_count();
  const std::vector<uint8_t> before = MemoryImage(*machine);
  // Long enough for each vCPU to report, if it ran.
  EXPECT_FALSE(console_.NewLine(lines, absl::Milliseconds(100)));
  EXPECT_TRUE(MemoryImage(*machine) == before) << "the guest's memory changed while it was paused";
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  NextCounts(console_, GetParam());
  machine->Stop();
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kRequested);
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_P(MachineCpusTest, SavedMachineGoesOnInAnotherOne) {
  const MachineConfig config = Config();
  std::unique_ptr<Machine> source = Start(config);
  const std::vector<uint64_t> before = NextCounts(console_, GetParam());
  ASSERT_EQ(source->Pause().ToString(), "OK");
  capnp::MallocMessageBuilder saved;
  ASSERT_EQ(source->Save(saved.initRoot<state::Machine>()).ToString(), "OK");

  GuestConsole console;
  std::unique_ptr<Machine> destination = harness_.Create(config, &console);
  CopyMemory(*source, *destination);
  source.reset();
  const state::Machine::Reader state = saved.getRoot<state::Machine>().asReader();
  ASSERT_EQ(destination->CheckState(state).ToString(), "OK");
  ASSERT_EQ(destination->LoadState(state).ToString(), "OK");
  ASSERT_EQ(destination->state(), MachineState::kPaused);
  ASSERT_EQ(destination->Resume().ToString(), "OK");
  const std::vector<uint64_t> after = NextCounts(console, GetParam());
  for (uint32_t cpu = 0; cpu < GetParam(); ++cpu) {
    EXPECT_GT(after[cpu], before[cpu]) << "vCPU " << cpu;
  }
  destination->Stop();
  // The guest looks after its registers, its interrupt controllers and its clocks itself.
  EXPECT_THAT(Errors(console), IsEmpty());
}

TEST_F(MachineTest, ThirtyTwoVcpusRunPauseAndMove) {
  // Each reports once, at its start.
  const MachineConfig config = MachineHarness::Config("count", "report_ms=1000000", 32);
  const std::unique_ptr<Machine> source = Start(config);
  NextCounts(console_, 32);
  ASSERT_EQ(source->Pause().ToString(), "OK");
  capnp::MallocMessageBuilder saved;
  ASSERT_EQ(source->Save(saved.initRoot<state::Machine>()).ToString(), "OK");
  const std::unique_ptr<Machine> destination = harness_.Create(config, &console_);
  CopyMemory(*source, *destination);
  ASSERT_EQ(destination->LoadState(saved.getRoot<state::Machine>().asReader()).ToString(), "OK");
  ASSERT_EQ(destination->Resume().ToString(), "OK");
  EXPECT_EQ(destination->Pause().ToString(), "OK");
  destination->Stop();
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, MovesTenTimesAndTimeNeverGoesBack) {
  const MachineConfig config = MachineHarness::Config("count", "report_ms=40", 2);
  std::unique_ptr<Machine> machine = Start(config);
  std::vector<uint64_t> counts = NextCounts(console_, 2);
  for (int i = 0; i < 10; ++i) {
    ASSERT_EQ(machine->Pause().ToString(), "OK");
    capnp::MallocMessageBuilder saved;
    ASSERT_EQ(machine->Save(saved.initRoot<state::Machine>()).ToString(), "OK");
    std::unique_ptr<Machine> next = harness_.Create(config, &console_);
    CopyMemory(*machine, *next);
    machine = std::move(next);
    ASSERT_EQ(machine->LoadState(saved.getRoot<state::Machine>().asReader()).ToString(), "OK");
    ASSERT_EQ(machine->Resume().ToString(), "OK");
    const std::vector<uint64_t> now = NextCounts(console_, 2);
    EXPECT_GT(now[0], counts[0]);
    EXPECT_GT(now[1], counts[1]);
    counts = now;
  }
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, SaveWantsAPausedMachine) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", ""));
  capnp::MallocMessageBuilder saved;
  EXPECT_THAT(machine->Save(saved.initRoot<state::Machine>()).message(), HasSubstr("the machine is running"));
}

TEST_F(MachineTest, ResetStartsTheGuestAnew) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "report_ms=20", 2));
  NextCounts(console_, 2);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(machine->Reset().ToString(), "OK");
    EXPECT_EQ(machine->state(), MachineState::kRunning);
    ASSERT_TRUE(console_.Next("ready").has_value());
    NextCounts(console_, 2);
  }
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  ASSERT_EQ(machine->Reset().ToString(), "OK");
  EXPECT_EQ(machine->state(), MachineState::kPaused);
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  EXPECT_TRUE(console_.Next("ready").has_value());
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, GuestResetsItself) {
  const std::unique_ptr<Machine> machine = harness_.Create(MachineHarness::Config("fault", "do=reset"), &console_);
  std::atomic<int> resets{0};
  machine->SetListener([&](const MachineEvent& event) { resets += event.kind == MachineEvent::Kind::kReset; });
  ASSERT_EQ(machine->Boot().ToString(), "OK");
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  // It resets each time.
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(console_.Next("ready").has_value());
  }
  EXPECT_GE(resets, 4);
  machine->Stop();
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kRequested);
}

TEST_F(MachineTest, ResetByTheGuestStopsAMachineThatIsNotToReboot) {
  MachineConfig config = MachineHarness::Config("fault", "do=reset");
  config.reboot_on_reset = false;
  const std::unique_ptr<Machine> machine = Start(config);
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kReset);
}

TEST_F(MachineTest, TripleFaultStopsTheMachineWithItsRegisters) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("fault", "do=triple-fault", 2));
  const StopInfo info = machine->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kGuestFault);
  EXPECT_THAT(info.details, HasSubstr("vCPU 0: "));
  EXPECT_THAT(info.details, HasSubstr("rip "));
  EXPECT_THAT(machine->Pause().message(), HasSubstr("the machine is stopped (guest fault)"));
  EXPECT_THAT(machine->Resume().message(), HasSubstr("stopped"));
  EXPECT_THAT(machine->Reset().message(), HasSubstr("stopped"));
  machine->Stop();
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kGuestFault);
}

TEST_F(MachineTest, UnknownRegistersReadAsAllOnes) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("fault", "do=unknown-io"));
  const std::optional<GuestLine> line = console_.Next("unknown-io");
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->Number("mmio8"), 0xff);
  EXPECT_EQ(line->Number("mmio16"), 0xffff);
  EXPECT_EQ(line->Number("mmio32"), 0xffff'ffff);
  EXPECT_EQ(line->Number("mmio64"), ~uint64_t{0});
  EXPECT_EQ(line->Number("pio8"), 0xff);
  EXPECT_EQ(line->Number("pio16"), 0xffff);
  EXPECT_EQ(line->Number("pio32"), 0xffff'ffff);
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kPowerOff);
}

TEST_F(MachineTest, MemoryPastTheEndReadsAsAllOnes) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("fault", "do=hole"));
  const std::optional<GuestLine> line = console_.Next("hole");
  ASSERT_TRUE(line.has_value());
  EXPECT_EQ(line->Number("read"), ~uint64_t{0});
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kPowerOff);
}

TEST_F(MachineTest, PrivilegedInstructionStopsTheMachine) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("fault", "do=ring0-halt"));
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kGuestFault);
}

// Nothing can be executed where no memory is: KVM gives up with an internal error.
TEST_F(MachineTest, GuestThatKvmCannotRunStopsWithItsRegisters) {
  const std::unique_ptr<Machine> machine = harness_.Create(MachineHarness::Config("count", ""), &console_);
  ASSERT_EQ(machine->Boot().ToString(), "OK");
  const auto saved = std::make_unique<capnp::MallocMessageBuilder>();
  auto state = saved->initRoot<state::Machine>();
  ASSERT_EQ(machine->Save(state).ToString(), "OK");
  auto vcpu = state.getVcpus()[0];
  kvm_regs regs;
  memcpy(&regs, vcpu.getRegs().begin(), sizeof(regs));
  regs.rip = 0xfd00'0000;
  vcpu.setRegs({reinterpret_cast<const uint8_t*>(&regs), sizeof(regs)});
  ASSERT_EQ(machine->LoadState(state.asReader()).ToString(), "OK");
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  const StopInfo info = machine->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kGuestFault);
  EXPECT_THAT(info.details, HasSubstr("vCPU 0: KVM internal error"));
  EXPECT_THAT(info.details, HasSubstr("rip 00000000fd000000"));
}

TEST_F(MachineTest, MemoryThatTheHostDoesNotGiveStopsTheMachineWithAnError) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("dirty", "set=16M report_ms=20 fill=none"));
  const std::optional<GuestLine> ready = console_.Next("ready");
  ASSERT_TRUE(ready.has_value());
  const std::span<uint8_t> memory = machine->memory().regions()[0]->guest_mapping();
  ASSERT_EQ(mprotect(&memory[ready->Number("first")], 16 << 20, PROT_NONE), 0) << strerror(errno);
  const StopInfo info = machine->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kError);
  EXPECT_THAT(info.details, HasSubstr("vCPU 0: KVM_RUN: Bad address"));
  EXPECT_THAT(info.details, HasSubstr("rip "));
}

// As where a control group's pids.max leaves no room for the task that KVM makes at the first run.
TEST_F(MachineTest, KvmThatSaysAgainForEverStopsTheMachineWithAnError) {
  RefuseRuns(INT64_MAX);
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "reports=1", 2));
  const StopInfo info = machine->WaitUntilStopped();
  // It is not tried as fast as may be.
  EXPECT_GT(refused_runs, INT64_MAX - 10'000);
  refused_runs = 0;
  EXPECT_EQ(info.reason, StopReason::kError);
  EXPECT_THAT(info.details, HasSubstr("KVM_RUN: Resource temporarily unavailable"));
  EXPECT_THAT(info.details, HasSubstr("pids.max"));
}

// Linux does that to processors that it has not started, when it crashes.
TEST_F(MachineTest, VcpuThatWaitsForItsInitMayGetAnNmi) {
  const std::unique_ptr<Machine> machine =
      Start(MachineHarness::Config("count", "cpus=1 nmi=1 report_ms=100 reports=25", 2));
  const StopInfo info = machine->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kPowerOff) << info.details;
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, VcpuThatKvmSendsBackParks) {
  RefuseRuns(INT64_MAX);
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "reports=3"));
  EXPECT_EQ(machine->Pause().ToString(), "OK");
  EXPECT_EQ(machine->state(), MachineState::kPaused);
  EXPECT_GT(refused_runs, 0) << "it was let in before it parked";
  RefuseRuns(20);
  EXPECT_EQ(machine->Resume().ToString(), "OK");
  EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kPowerOff);
  EXPECT_EQ(refused_runs, 0);
  EXPECT_THAT(Errors(console_), IsEmpty());
}

// The kernel answers questions about a vCPU only when it is out of KVM_RUN, and a vCPU that waits to be started never
// comes out.
TEST_F(MachineTest, QuestionsAboutARunningMachineDoNotWaitForItsVcpus) {
  const MachineConfig config = MachineHarness::Config("count", "report_ms=1000000 cpus=1", 2);
  const std::unique_ptr<Machine> paused = harness_.Create(config, nullptr);
  ASSERT_EQ(paused->Boot().ToString(), "OK");
  const auto saved = std::make_unique<capnp::MallocMessageBuilder>();
  ASSERT_EQ(paused->Save(saved->initRoot<state::Machine>()).ToString(), "OK");
  const std::unique_ptr<Machine> machine = Start(config);
  NextCounts(console_, 1);
  EXPECT_EQ(machine->CheckState(saved->getRoot<state::Machine>().asReader()).ToString(), "OK");
  const auto description = std::make_unique<capnp::MallocMessageBuilder>();
  EXPECT_EQ(machine->moving().Describe(description->initRoot<state::MachineDescription>()).ToString(), "OK");
}

TEST_F(MachineTest, StopsFromEveryState) {
  const MachineConfig config = MachineHarness::Config("count", "", 2);
  {
    const std::unique_ptr<Machine> created = harness_.Create(config, &console_);
    created->Stop();
    created->Stop();
    EXPECT_EQ(created->WaitUntilStopped().reason, StopReason::kRequested);
    EXPECT_THAT(created->Boot().message(), HasSubstr("the machine is stopped"));
  }
  {
    const std::unique_ptr<Machine> paused = harness_.Create(config, &console_);
    ASSERT_EQ(paused->Boot().ToString(), "OK");
    paused->Stop();
    EXPECT_EQ(paused->state(), MachineState::kStopped);
  }
  {
    const std::unique_ptr<Machine> running = Start(config);
    NextCounts(console_, 2);
    running->Stop();
    EXPECT_EQ(running->state(), MachineState::kStopped);
  }
  {
    // Destroyed while it runs.
    const std::unique_ptr<Machine> running = Start(config);
  }
}

TEST_F(MachineTest, PauseResumeResetAndStopMayRace) {
  for (int round = 0; round < 5; ++round) {
    const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "report_ms=5", 2));
    std::atomic<bool> done{false};
    std::vector<std::thread> threads;
    const auto repeat = [&](auto operation) {
      threads.emplace_back([&done, operation] {
        while (!done) {
          operation();
        }
      });
    };
    repeat([&] { (void)machine->Pause(); });
    repeat([&] { (void)machine->Resume(); });
    repeat([&] { (void)machine->Reset(); });
    for (int i = 0; i < 3; ++i) {
      console_.Next("ready");
    }
    machine->Stop();
    done = true;
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(machine->WaitUntilStopped().reason, StopReason::kRequested);
  }
}

TEST_F(MachineTest, PausesAreNotFeltByTheGuestButAsTime) {
  const std::unique_ptr<Machine> machine = Start(MachineHarness::Config("count", "report_ms=5", 2));
  NextCounts(console_, 2);
  for (int i = 0; i < ForPlace(300, 50); ++i) {
    ASSERT_EQ(machine->Pause().ToString(), "OK");
    ASSERT_EQ(machine->Pause().ToString(), "OK");
    ASSERT_EQ(machine->Resume().ToString(), "OK");
    ASSERT_EQ(machine->Resume().ToString(), "OK");
  }
  NextCounts(console_, 2);
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, ListenerHearsOfEachChange) {
  const std::unique_ptr<Machine> machine = harness_.Create(MachineHarness::Config("count", ""), &console_);
  absl::Mutex mutex;
  std::vector<MachineEvent::Kind> kinds;
  machine->SetListener([&](const MachineEvent& event) {
    absl::MutexLock lock(&mutex);
    kinds.push_back(event.kind);
  });
  ASSERT_EQ(machine->Boot().ToString(), "OK");
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  ASSERT_EQ(machine->Reset().ToString(), "OK");
  machine->Stop();
  using enum MachineEvent::Kind;
  absl::MutexLock lock(&mutex);
  EXPECT_THAT(kinds, testing::ElementsAre(kRunning, kPaused, kReset, kStopped));
}

// A reset by name would boot whatever somebody has put there since, or show it to the guest.
TEST_F(MachineTest, ResetLoadsTheFilesThatWereThereFirst) {
  namespace fs = std::filesystem;
  std::string directory = "/tmp/ferrite-machine-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const absl::Cleanup remove = [&] { fs::remove_all(directory); };
  MachineConfig config = MachineHarness::Config("count", "");
  const std::string kernel = directory + "/kernel";
  const std::string initrd = directory + "/initrd";
  fs::copy_file(config.kernel_path, kernel);
  std::ofstream(initrd) << "a RAM disk";
  config.kernel_path = kernel;
  config.initrd_path = initrd;
  const std::unique_ptr<Machine> machine = Start(config);
  NextCounts(console_, 1);
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  // The loader puts it at the end of the memory.
  const auto at_initrd = [&] {
    const std::span<uint8_t> ram = machine->memory().regions()[0]->guest_mapping();
    return std::string(reinterpret_cast<const char*>(ram.data()) + ram.size() - 4096, 10);
  };
  EXPECT_EQ(at_initrd(), "a RAM disk");
  std::ofstream(directory + "/secret") << "the secret";
  for (const std::string& name : {kernel, initrd}) {
    fs::remove(name);
    fs::create_symlink(directory + "/secret", name);
  }
  ASSERT_EQ(machine->Reset().ToString(), "OK");
  EXPECT_EQ(at_initrd(), "a RAM disk");
  EXPECT_EQ(machine->Resume().ToString(), "OK");
  NextCounts(console_, 1);
  machine->Stop();
}

// Of a kernel or an initrd that is cut, empty, or has become something else nothing is loaded: a user's reset is
// refused and the guest runs on; a guest that resets itself cannot be refused, and ends.
TEST_F(MachineTest, ResetWithNothingToBootIsRefusedAndTheGuestRunsOn) {
  namespace fs = std::filesystem;
  std::string directory = "/tmp/ferrite-machine-XXXXXX";
  ASSERT_NE(mkdtemp(directory.data()), nullptr);
  const absl::Cleanup remove = [&] { fs::remove_all(directory); };
  MachineConfig config = MachineHarness::Config("count", "report_ms=5");
  const std::string kernel = directory + "/kernel";
  const std::string initrd = directory + "/initrd";
  const std::string good = config.kernel_path;
  const auto whole = fs::copy_options::overwrite_existing;
  fs::copy_file(good, kernel);
  fs::permissions(kernel, fs::perms::owner_all);
  std::ofstream(initrd) << "a RAM disk";
  config.kernel_path = kernel;
  config.initrd_path = initrd;
  const std::unique_ptr<Machine> machine = Start(config);
  NextCounts(console_, 1);
  const std::pair<std::function<void()>, std::string> wrongs[] = {
      {[&] { fs::resize_file(kernel, 40); }, "kernel " + kernel + " is truncated"},
      {[&] { fs::resize_file(kernel, 0); }, "kernel " + kernel + " is empty"},
      {[&] { std::ofstream(kernel) << "no kernel"; }, "kernel " + kernel + " has only 9 bytes"},
      {[&] { fs::resize_file(initrd, 0); }, "initrd " + initrd + " is empty"},
      {[&] { fs::resize_file(initrd, uint64_t{1} << 40); }, "initrd " + initrd + " does not fit"},
  };
  for (const auto& [spoil, words] : wrongs) {
    SCOPED_TRACE(words);
    spoil();
    EXPECT_THAT(std::string(machine->Reset().message()), testing::StartsWith("cannot reset: " + words));
    ASSERT_EQ(machine->state(), MachineState::kRunning);
    EXPECT_FALSE(console_.Next("ready", absl::ZeroDuration()).has_value());
    NextCounts(console_, 1);
    ASSERT_EQ(machine->Pause().ToString(), "OK");
    EXPECT_THAT(machine->Reset().message(), HasSubstr(words));
    EXPECT_EQ(machine->state(), MachineState::kPaused);
    ASSERT_EQ(machine->Resume().ToString(), "OK");
    NextCounts(console_, 1);
    fs::copy_file(good, kernel, whole);
    fs::resize_file(initrd, 10);
  }
  // Without its name it is there all the same.
  fs::remove(kernel);
  ASSERT_EQ(machine->Reset().ToString(), "OK");
  EXPECT_TRUE(console_.Next("ready").has_value());
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_F(MachineTest, GuestThatResetsItselfEndsWithTheReasonWhenThereIsNothingToBoot) {
  namespace fs = std::filesystem;
  MachineConfig config = MachineHarness::Config("fault", "do=reset");
  std::string kernel = "/tmp/ferrite-machine-XXXXXX";
  const int file = mkstemp(kernel.data());
  ASSERT_GE(file, 0);
  close(file);
  const absl::Cleanup remove = [&] { fs::remove(kernel); };
  fs::copy_file(config.kernel_path, kernel, fs::copy_options::overwrite_existing);
  config.kernel_path = kernel;
  const std::unique_ptr<Machine> machine = harness_.Create(config, &console_);
  ASSERT_EQ(machine->Boot().ToString(), "OK");
  fs::permissions(kernel, fs::perms::owner_all);
  fs::resize_file(kernel, 100);
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  const StopInfo info = machine->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kError);
  EXPECT_THAT(info.details, HasSubstr("reset by the guest: kernel " + kernel));
}

TEST_F(MachineTest, KernelThatIsNotThereLeavesTheMachineCreated) {
  MachineConfig config = MachineHarness::Config("no-such-guest", "");
  EXPECT_EQ(harness_.CreateError(config).message(), "kernel tests/guest/no-such-guest: No such file or directory");
  config.kernel_path = "tests/guest";
  const std::unique_ptr<Machine> machine = harness_.Create(config, &console_);
  EXPECT_EQ(machine->Boot().message(), "kernel tests/guest is a directory");
  EXPECT_EQ(machine->state(), MachineState::kCreated);
  EXPECT_THAT(machine->Pause().message(), HasSubstr("the machine is created"));
  EXPECT_THAT(machine->Resume().message(), HasSubstr("the machine is created"));
}

class MachineDirtyTest : public MachineTest, public testing::WithParamInterface<bool> {
 protected:
  // The pages that were written since the last call.
  static std::unique_ptr<PageBitmap> Collect(Machine& machine) {
    EXPECT_EQ(machine.memory().regions().size(), 1u);
    auto dirty = std::make_unique<PageBitmap>(machine.memory().regions()[0]->pages());
    EXPECT_EQ(machine.moving().CollectDirty(0, *dirty).ToString(), "OK");
    return dirty;
  }

  // Waits until the guest has written `writes` times from now on, calling `meanwhile` with each report.
  void WaitForWrites(
      uint64_t writes, const std::function<void()>& meanwhile = [] {}) {
    // What was said before is old.
    while (console_.Next("dirty", absl::ZeroDuration()).has_value()) {
    }
    std::optional<GuestLine> line = console_.Next("dirty");
    ASSERT_TRUE(line.has_value());
    const uint64_t start = line->Number("writes");
    while (line->Number("writes") < start + writes) {
      line = console_.Next("dirty");
      ASSERT_TRUE(line.has_value());
      meanwhile();
    }
  }
};
INSTANTIATE_TEST_SUITE_P(LogAndRing, MachineDirtyTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Ring" : "Log"; });

TEST_P(MachineDirtyTest, ShowsWhatTheGuestAndTheMonitorWroteAndNothingElse) {
  MachineConfig config = MachineHarness::Config("dirty", "set=8M stride=2 write=word fill=none report_ms=50");
  config.dirty_ring = GetParam();
  if (config.dirty_ring && !harness_.kvm().capabilities().has(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
    GTEST_SKIP() << "this host's KVM has no dirty ring";
  }
  const std::unique_ptr<Machine> machine = Start(config);
  const GuestLine ready = *console_.Next("ready");
  const uint64_t first_page = ready.Number("first") / kPageBytes;
  const uint64_t set_pages = ready.Number("pages");
  WaitForWrites(set_pages);
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  ASSERT_EQ(machine->moving().StartDirtyTracking().ToString(), "OK");
  EXPECT_FALSE(machine->moving().StartDirtyTracking().ok());
  const uint64_t pages = machine->memory().regions()[0]->pages();
  EXPECT_EQ(Collect(*machine)->Count(), pages) << "all count as written at first";
  EXPECT_EQ(Collect(*machine)->Count(), 0u);

  for (int round = 0; round < 3; ++round) {
    const std::vector<uint8_t> before = MemoryImage(*machine);
    ASSERT_EQ(machine->Resume().ToString(), "OK");
    // The guest sweeps over its set: each page of it changes.
    WaitForWrites(2 * set_pages);
    ASSERT_EQ(machine->Pause().ToString(), "OK");
    const uint64_t own_page = pages - 3 - round;
    ASSERT_EQ(machine->memory().WriteObject<uint8_t>(GuestAddress(own_page * kPageBytes), round).ToString(), "OK");
    const std::vector<uint8_t> after = MemoryImage(*machine);
    const std::unique_ptr<PageBitmap> dirty = Collect(*machine);
    EXPECT_TRUE(dirty->Test(own_page));
    uint64_t changed = 0;
    for (uint64_t page = 0; page < pages; ++page) {
      if (memcmp(&before[page * kPageBytes], &after[page * kPageBytes], kPageBytes) != 0) {
        ++changed;
        EXPECT_TRUE(dirty->Test(page)) << "page " << page << " changed";
      }
    }
    EXPECT_GE(changed, set_pages);
    // Of the set the guest writes every other page. Beside it, it has its stack and its variables, which may be
    // written without changing.
    EXPECT_FALSE(dirty->Test(first_page + 1));
    EXPECT_FALSE(dirty->Test(first_page + 1001));
    EXPECT_LE(dirty->Count(), changed + 32);
    EXPECT_EQ(Collect(*machine)->Count(), 0u) << "nothing was written since";
  }
  ASSERT_EQ(machine->moving().StopDirtyTracking().ToString(), "OK");
  EXPECT_EQ(machine->moving().StopDirtyTracking().ToString(), "OK");
  ASSERT_EQ(machine->Resume().ToString(), "OK");
  ASSERT_TRUE(console_.Next("dirty").has_value());
  // A second time.
  ASSERT_EQ(machine->moving().StartDirtyTracking().ToString(), "OK");
  EXPECT_EQ(Collect(*machine)->Count(), pages);
  machine->Stop();
  EXPECT_THAT(Errors(console_), IsEmpty());
}

TEST_P(MachineDirtyTest, CollectsWhileTheGuestWritesMoreThanARingHolds) {
  // The log is cleared in pieces of 256 MiB. Each page that a ring holds is a fault in the outer machine: a small one.
  MachineConfig config = MachineHarness::Config(
      "dirty", absl::StrCat("set=", GetParam() ? "24M" : "300M", " write=word fill=none report_ms=50"));
  config.memory_bytes = uint64_t{512} << 20;
  config.dirty_ring = GetParam();
  config.dirty_ring_entries = 4096;
  if (config.dirty_ring && !harness_.kvm().capabilities().has(KVM_CAP_DIRTY_LOG_RING_ACQ_REL)) {
    GTEST_SKIP() << "this host's KVM has no dirty ring";
  }
  const std::unique_ptr<Machine> machine = Start(config);
  const GuestLine ready = *console_.Next("ready");
  const uint64_t first_page = ready.Number("first") / kPageBytes;
  ASSERT_EQ(machine->moving().StartDirtyTracking().ToString(), "OK");
  Collect(*machine);
  PageBitmap all(machine->memory().regions()[0]->pages());
  WaitForWrites(ready.Number("pages") + 1000, [&] { Collect(*machine)->TakeInto(all); });
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  Collect(*machine)->TakeInto(all);
  for (uint64_t page = 0; page < ready.Number("pages"); ++page) {
    ASSERT_TRUE(all.Test(first_page + page)) << page;
  }
  EXPECT_THAT(Errors(console_), IsEmpty());
}

// ---- Saved state that does not fit (R7) ----

class MachineStateTest : public MachineTest {
 protected:
  MachineStateTest() : machine_(harness_.Create(MachineHarness::Config("count", "", 2), &console_)) {
    EXPECT_EQ(machine_->Boot().ToString(), "OK");
    EXPECT_EQ(machine_->Save(saved_->initRoot<state::Machine>()).ToString(), "OK");
  }
  state::Machine::Builder saved() { return saved_->getRoot<state::Machine>(); }
  std::string Check() { return machine_->CheckState(saved().asReader()).ToString(); }
  std::string Load() { return machine_->LoadState(saved().asReader()).ToString(); }

  std::unique_ptr<Machine> machine_;
  // On the heap: its destructor may throw, as far as the compiler knows.
  const std::unique_ptr<capnp::MallocMessageBuilder> saved_ = std::make_unique<capnp::MallocMessageBuilder>();
};

TEST_F(MachineStateTest, R7OwnStateFits) {
  EXPECT_EQ(Check(), "OK");
  EXPECT_EQ(Load(), "OK");
  EXPECT_EQ(machine_->state(), MachineState::kPaused);
}

TEST_F(MachineStateTest, R7NewerVersionsAreRefusedByName) {
  saved().setVersion(3);
  EXPECT_THAT(Check(), HasSubstr("the machine's state has version 3"));
  saved().setVersion(1);
  saved().getVcpus()[1].setVersion(7);
  EXPECT_THAT(Check(), HasSubstr("vCPU 1: its state has version 7"));
  saved().getVcpus()[1].setVersion(1);
  saved().getIrqchip().setVersion(3);
  EXPECT_THAT(Check(), HasSubstr("irqchip: its state has version 3"));
  saved().getIrqchip().setVersion(1);
  saved().getClock().setVersion(0);
  EXPECT_THAT(Check(), HasSubstr("clock: its state has version 0"));
}

TEST_F(MachineStateTest, R7AnotherNumberOfVcpusIsRefused) {
  saved().initVcpus(3);
  EXPECT_THAT(Check(), HasSubstr("the state has 3 vCPUs, this machine has 2"));
}

TEST_F(MachineStateTest, R7ForeignDevicesAreRefusedByName) {
  auto devices = saved().getDevices();
  devices[0].setName("virtio-net:lan");
  EXPECT_THAT(Check(), HasSubstr("the state has the device virtio-net:lan, which this machine lacks"));
  devices[0].setName("\x1b[2J");
  EXPECT_THAT(Check(), HasSubstr("the state has the device ?[2J, which this machine lacks"));
  devices[0].setName("power");
  EXPECT_THAT(Check(), HasSubstr("the device power twice"));

  const uint32_t count = devices.size();
  capnp::MallocMessageBuilder more;
  auto root = more.initRoot<state::Machine>();
  EXPECT_EQ(machine_->Save(root).ToString(), "OK");
  auto longer = root.initDevices(count + 1);
  capnp::MallocMessageBuilder again;
  auto source = again.initRoot<state::Machine>();
  EXPECT_EQ(machine_->Save(source).ToString(), "OK");
  for (uint32_t i = 0; i < count; ++i) {
    longer.setWithCaveats(i, source.getDevices()[i].asReader());
  }
  longer[count].setName("virtio-net:lan");
  EXPECT_THAT(machine_->CheckState(root.asReader()).ToString(),
              HasSubstr("the state has the device virtio-net:lan, which this machine lacks"));
  saved().initDevices(0);
  EXPECT_THAT(Check(), HasSubstr("lacks the device serial0"));
}

TEST_F(MachineStateTest, R7RefusedStateChangesNothing) {
  saved().getVcpus()[1].setMpState(77);
  EXPECT_THAT(Load(), HasSubstr("vCPU 1: mpState 77"));
  EXPECT_EQ(machine_->state(), MachineState::kPaused);
  ASSERT_EQ(machine_->Resume().ToString(), "OK");
  NextCounts(console_, 2);
}

TEST_F(MachineStateTest, StateThatTheKernelRefusesStopsTheMachine) {
  // Long mode without paging: no processor is ever in such a state.
  auto vcpu = saved().getVcpus()[0];
  kvm_sregs sregs;
  memcpy(&sregs, vcpu.getSregs().begin(), sizeof(sregs));
  sregs.cr4 = ~uint64_t{0};
  vcpu.setSregs({reinterpret_cast<const uint8_t*>(&sregs), sizeof(sregs)});
  EXPECT_THAT(Load(), HasSubstr("KVM_SET_SREGS"));
  EXPECT_EQ(machine_->state(), MachineState::kStopped);
  const StopInfo info = machine_->WaitUntilStopped();
  EXPECT_EQ(info.reason, StopReason::kError);
  EXPECT_THAT(info.details, HasSubstr("vCPU 0: KVM_SET_SREGS"));
}

// ---- Devices ----

TEST_F(MachineTest, VirtioDevicesWorkAndAreSaved) {
  MachineConfig config = MachineHarness::Config("count", "report_ms=20");
  config.devices = {RngConfig{}, BalloonConfig{}};
  const std::unique_ptr<Machine> machine = Start(config);
  EXPECT_NE(machine->balloon(), nullptr);
  NextCounts(console_, 1);
  ASSERT_EQ(machine->Pause().ToString(), "OK");
  capnp::MallocMessageBuilder saved;
  ASSERT_EQ(machine->Save(saved.initRoot<state::Machine>()).ToString(), "OK");
  EXPECT_EQ(saved.getRoot<state::Machine>().getDevices().size(), 4u);
  config.devices = {BalloonConfig{}};
  const std::unique_ptr<Machine> other = harness_.Create(config, nullptr);
  EXPECT_THAT(other->LoadState(saved.getRoot<state::Machine>().asReader()).message(), HasSubstr("virtio-rng"));
  EXPECT_EQ(other->state(), MachineState::kCreated);
}

TEST_F(MachineTest, DiskThatIsNotThereIsNamed) {
  MachineConfig config = MachineHarness::Config("count", "");
  config.devices = {DiskConfig{.id = "root", .path = "/no/such/disk.img"}};
  EXPECT_THAT(harness_.CreateError(config).message(), HasSubstr("/no/such/disk.img"));
}

}  // namespace
}  // namespace ferrite
