// The life of a machine with a guest in it: start, pause, resume, reset, and every way to end.

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "tests/integration/payload_machine.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

MachineConfig Config(std::string command_line, uint32_t cpus = 1) {
  MachineConfig config;
  config.cpus = cpus;
  config.memory_bytes = 128 * kMiB;
  config.command_line = std::move(command_line);
  return config;
}

std::unique_ptr<PayloadMachine> RunPayload(absl::string_view program, MachineConfig config) {
  auto machine = PayloadMachine::Run(program, std::move(config));
  EXPECT_TRUE(machine.ok()) << machine.status();
  return machine.ok() ? *std::move(machine) : nullptr;
}

std::vector<uint8_t> CopyOfMemory(GuestMemory& memory) {
  std::vector<uint8_t> copy;
  for (const auto& region : memory.regions()) {
    const auto bytes = region->guest_mapping();
    copy.insert(copy.end(), bytes.begin(), bytes.end());
  }
  return copy;
}

TEST(LifecycleTest, GuestRunsAndPowersOff) {
  auto machine = RunPayload("hello", Config(""));
  ASSERT_NE(machine, nullptr);
  const auto hello = machine->WaitFor("hello");
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_GT(hello->Number("pages"), 30'000u);
  EXPECT_EQ(hello->Number("cpus"), 1u);
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kPowerOff) << stop->details;
  EXPECT_EQ(machine->machine().state(), MachineState::kStopped);
  EXPECT_GT(machine->machine().first_entry_ns(), 0);
}

// The payload looks at the start info and at the mode that it is entered in.
TEST(LifecycleTest, KernelIsEnteredByItsPvhEntry) {
  auto machine = RunPayload("pvh", Config("answer=42"));
  ASSERT_NE(machine, nullptr);
  const auto line = machine->WaitFor("pvh");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->Number("answer"), 42u);
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kPowerOff) << stop->details;
}

TEST(LifecycleTest, EveryVcpuRuns) {
  auto machine = RunPayload("count", Config("reports=25 report_ms=20", 4));
  ASSERT_NE(machine, nullptr);
  const auto ready = machine->WaitFor("ready");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->Number("cpus"), 4u);
  std::vector<bool> seen(4);
  while (std::count(seen.begin(), seen.end(), true) < 4) {
    const auto line = machine->WaitFor("count");
    ASSERT_TRUE(line.ok()) << line.status();
    seen.at(line->Number("cpu")) = true;
  }
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kPowerOff) << stop->details;
  EXPECT_TRUE(machine->console().errors().empty()) << machine->console().errors().front();
}

TEST(LifecycleTest, MemoryIsQuietWhilePausedAndGuestGoesOnAfterwards) {
  for (const uint32_t cpus : {1u, 2u}) {
    MachineConfig config = Config("mode=step set=4M report_ms=20", cpus);
    config.memory_bytes = 16 * kMiB;
    auto machine = RunPayload("dirty", std::move(config));
    ASSERT_NE(machine, nullptr);
    ASSERT_TRUE(machine->WaitFor("filled").ok());
    for (int round = 0; round < 10; ++round) {
      ASSERT_TRUE(machine->WaitFor("dirty").ok());
      ASSERT_TRUE(machine->machine().Pause().ok());
      EXPECT_EQ(machine->machine().state(), MachineState::kPaused);
      const std::vector<uint8_t> before = CopyOfMemory(machine->memory());
      // A writer that is still there would have written thousands of pages since.
      const std::vector<uint8_t> after = CopyOfMemory(machine->memory());
      ASSERT_TRUE(before == after) << "memory changed while the machine was paused";
      machine->console().SkipLines();
      ASSERT_TRUE(machine->machine().Resume().ok());
    }
    const auto check = machine->Check();
    EXPECT_TRUE(check.ok()) << check.status();
  }
}

TEST(LifecycleTest, PauseAndResumeAreIdempotent) {
  auto machine = RunPayload("count", Config("report_ms=20"));
  ASSERT_NE(machine, nullptr);
  EXPECT_TRUE(machine->machine().Resume().ok());
  ASSERT_TRUE(machine->WaitFor("count").ok());
  EXPECT_TRUE(machine->machine().Pause().ok());
  EXPECT_TRUE(machine->machine().Pause().ok());
  machine->console().SkipLines();
  EXPECT_TRUE(machine->machine().Resume().ok());
  EXPECT_TRUE(machine->WaitFor("count").ok());
  EXPECT_TRUE(machine->console().errors().empty()) << machine->console().errors().front();
}

TEST(LifecycleTest, GuestSeesAPauseByItsTimeStampCounterOnly) {
  MachineConfig config = Config("mode=random set=4M report_ms=20");
  config.memory_bytes = 16 * kMiB;
  auto machine = RunPayload("dirty", std::move(config));
  ASSERT_NE(machine, nullptr);
  ASSERT_TRUE(machine->WaitFor("dirty").ok());
  ASSERT_TRUE(machine->Send('z').ok());
  // Between two new lines the guest has looked at its input; before the third it has forgotten the gaps.
  machine->console().SkipLines();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(machine->WaitFor("dirty").ok());
  }
  ASSERT_TRUE(machine->machine().Pause().ok());
  const MonotonicTime begin = MonotonicTime::Now();
  CopyOfMemory(machine->memory());
  const absl::Duration paused = MonotonicTime::Now() - begin;
  ASSERT_TRUE(machine->machine().Resume().ok());
  const auto check = machine->Check();
  ASSERT_TRUE(check.ok()) << check.status();
  EXPECT_GE(check->Number("gap_ns"), static_cast<uint64_t>(absl::ToInt64Nanoseconds(paused)));
}

TEST(LifecycleTest, ResetStartsTheGuestAnew) {
  auto machine = RunPayload("count", Config("report_ms=20", 2));
  ASSERT_NE(machine, nullptr);
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(machine->WaitFor("count").ok());
    ASSERT_TRUE(machine->WaitFor("count").ok());
    machine->console().SkipLines();
    ASSERT_TRUE(machine->machine().Reset().ok());
    const auto ready = machine->WaitFor("ready");
    ASSERT_TRUE(ready.ok()) << ready.status();
  }
  ASSERT_TRUE(machine->WaitFor("count").ok());
}

TEST(LifecycleTest, ResetOfAPausedMachineLeavesItPaused) {
  auto machine = RunPayload("count", Config("report_ms=20"));
  ASSERT_NE(machine, nullptr);
  ASSERT_TRUE(machine->WaitFor("count").ok());
  ASSERT_TRUE(machine->machine().Pause().ok());
  ASSERT_TRUE(machine->machine().Reset().ok());
  EXPECT_EQ(machine->machine().state(), MachineState::kPaused);
  machine->console().SkipLines();
  ASSERT_TRUE(machine->machine().Resume().ok());
  EXPECT_TRUE(machine->WaitFor("ready").ok());
}

TEST(LifecycleTest, GuestResetsItselfAndBootsAgain) {
  auto machine = RunPayload("fault", Config("do=reset"));
  ASSERT_NE(machine, nullptr);
  for (int round = 0; round < 3; ++round) {
    const auto ready = machine->WaitFor("ready");
    ASSERT_TRUE(ready.ok()) << ready.status();
  }
}

TEST(LifecycleTest, GuestResetStopsTheMachineThatShallNotReboot) {
  MachineConfig config = Config("do=reset");
  config.reboot_on_reset = false;
  auto machine = RunPayload("fault", std::move(config));
  ASSERT_NE(machine, nullptr);
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kReset) << stop->details;
}

TEST(LifecycleTest, TripleFaultStopsTheMachineWithTheRegisters) {
  for (const char* what : {"triple-fault", "ring0-halt"}) {
    auto machine = RunPayload("fault", Config(absl::StrCat("do=", what)));
    ASSERT_NE(machine, nullptr);
    const auto stop = machine->WaitUntilStopped();
    ASSERT_TRUE(stop.ok()) << what << ": " << stop.status();
    EXPECT_EQ(stop->reason, StopReason::kGuestFault) << what;
    EXPECT_TRUE(absl::StrContains(stop->details, "rip")) << stop->details;
  }
}

TEST(LifecycleTest, UnknownRegistersReadAsAllOnes) {
  auto machine = RunPayload("fault", Config("do=unknown-io"));
  ASSERT_NE(machine, nullptr);
  const auto line = machine->WaitFor("unknown-io");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->Text("mmio8"), "0xff");
  EXPECT_EQ(line->Text("mmio16"), "0xffff");
  EXPECT_EQ(line->Text("mmio32"), "0xffffffff");
  EXPECT_EQ(line->Text("mmio64"), "0xffffffffffffffff");
  EXPECT_EQ(line->Text("pio8"), "0xff");
  EXPECT_EQ(line->Text("pio16"), "0xffff");
  EXPECT_EQ(line->Text("pio32"), "0xffffffff");
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kPowerOff) << stop->details;
}

TEST(LifecycleTest, NothingIsPastTheEndOfMemory) {
  auto machine = RunPayload("fault", Config("do=hole"));
  ASSERT_NE(machine, nullptr);
  const auto line = machine->WaitFor("hole");
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->Number("address"), 128 * kMiB);
  EXPECT_EQ(line->Text("read"), "0xffffffffffffffff");
}

TEST(LifecycleTest, StopEndsARunningGuestAndAPausedOne) {
  for (const bool paused : {false, true}) {
    auto machine = RunPayload("count", Config("report_ms=20", 2));
    ASSERT_NE(machine, nullptr);
    ASSERT_TRUE(machine->WaitFor("count").ok());
    if (paused) {
      ASSERT_TRUE(machine->machine().Pause().ok());
    }
    machine->machine().Stop();
    const auto stop = machine->WaitUntilStopped();
    ASSERT_TRUE(stop.ok()) << stop.status();
    EXPECT_EQ(stop->reason, StopReason::kRequested);
    EXPECT_FALSE(machine->machine().Resume().ok());
  }
}

}  // namespace
}  // namespace ferrite
