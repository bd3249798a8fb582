// A machine is saved, destroyed and loaded, and its guest does not notice: no write is lost, no register has changed,
// no request to a device is forgotten, time goes only forward.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/integration/payload_machine.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr int kMoves = 3;

struct SaveLoadCase {
  const char* name;
  const char* options;
  uint32_t cpus;
  MemoryBacking backing = MemoryBacking::kMemfd;
};

MachineConfig Config(const SaveLoadCase& test) {
  MachineConfig config;
  config.cpus = test.cpus;
  config.memory_bytes = 128 * kMiB;
  config.memory_backing = test.backing;
  config.command_line = test.options;
  return config;
}

// One turn: the machine is replaced by one that goes on where it stopped.
absl::Status Move(std::unique_ptr<PayloadMachine>& machine, const MachineConfig& config) {
  auto saved = PayloadMachine::SaveAndDestroy(std::move(machine));
  if (!saved.ok()) {
    return saved.status();
  }
  auto loaded = PayloadMachine::Load(*std::move(saved), config);
  if (!loaded.ok()) {
    return loaded.status();
  }
  machine = *std::move(loaded);
  machine->console().SkipLines();
  return machine->machine().Resume();
}

class DirtySaveLoadTest : public testing::TestWithParam<SaveLoadCase> {};

TEST_P(DirtySaveLoadTest, NothingThatTheGuestWroteIsLost) {
  const MachineConfig config = Config(GetParam());
  auto run = PayloadMachine::Run("dirty", config);
  ASSERT_TRUE(run.ok()) << run.status();
  std::unique_ptr<PayloadMachine> machine = *std::move(run);
  ASSERT_TRUE(machine->WaitFor("filled").ok());
  uint64_t writes = 0;
  for (int i = 0; i < kMoves; ++i) {
    ASSERT_TRUE(machine->WaitFor("dirty").ok());
    const absl::Status moved = Move(machine, config);
    ASSERT_TRUE(moved.ok()) << "move " << i << ": " << moved;
    const auto check = machine->Check();
    ASSERT_TRUE(check.ok()) << "after move " << i << ": " << check.status();
    EXPECT_GT(check->Number("writes"), writes);
    writes = check->Number("writes");
  }
  ASSERT_TRUE(machine->Send('q').ok());
  const auto stop = machine->WaitUntilStopped();
  ASSERT_TRUE(stop.ok()) << stop.status();
  EXPECT_EQ(stop->reason, StopReason::kPowerOff) << stop->details;
}

INSTANTIATE_TEST_SUITE_P(
    All, DirtySaveLoadTest,
    testing::Values(SaveLoadCase{"Step1Cpu", "mode=step set=8M report_ms=10", 1},
                    SaveLoadCase{"Step2Cpus", "mode=step set=8M report_ms=10", 2},
                    SaveLoadCase{"RandomPages1Cpu", "mode=random set=16M report_ms=10", 1},
                    SaveLoadCase{"RandomWords2Cpus", "mode=random write=word fill=zero set=16M report_ms=10", 2},
                    SaveLoadCase{"SequentialAnonymous2Cpus", "set=16M report_ms=10", 2, MemoryBacking::kAnonymous}),
    [](const testing::TestParamInfo<SaveLoadCase>& info) { return std::string(info.param.name); });

TEST(SaveLoadTest, RegistersInterruptControllersAndTimeAreKept) {
  for (const uint32_t cpus : {1u, 2u}) {
    MachineConfig config = Config({.name = "", .options = "report_ms=10", .cpus = cpus});
    auto run = PayloadMachine::Run("count", config);
    ASSERT_TRUE(run.ok()) << run.status();
    std::unique_ptr<PayloadMachine> machine = *std::move(run);
    uint64_t clock_ns = 0;
    for (int i = 0; i < kMoves; ++i) {
      ASSERT_TRUE(machine->WaitFor("count").ok());
      const absl::Status moved = Move(machine, config);
      ASSERT_TRUE(moved.ok()) << moved;
      // All vCPUs report again, and none has found anything changed.
      std::vector<bool> seen(cpus);
      while (std::count(seen.begin(), seen.end(), true) < cpus) {
        const auto line = machine->WaitFor("count");
        ASSERT_TRUE(line.ok()) << "move " << i << ": " << line.status();
        seen.at(line->Number("cpu")) = true;
        if (line->Number("cpu") == 0) {
          EXPECT_GT(line->Number("clock_ns"), clock_ns);
          clock_ns = line->Number("clock_ns");
        }
      }
      ASSERT_TRUE(machine->console().errors().empty())
          << "cpus " << cpus << ", move " << i << ": " << machine->console().errors().front();
    }
  }
}

// A machine with a device at every place that the platform has for one: disks stand for the nets and the vsock that
// there will be.
TEST(SaveLoadTest, DeviceAtEveryPlaceWorks) {
  const uint32_t disks = kMaxVirtioDevices - 2;
  for (const uint32_t nth : {0u, disks - 1}) {
    SCOPED_TRACE(nth);
    MachineConfig config =
        Config({.name = "", .options = "report_ms=10 blk_span=64K blk_chunk=16K discard=0 fill=16M", .cpus = 1});
    absl::StrAppend(&config.command_line, " blk_nth=", nth);
    config.devices = {RngConfig{}, BalloonConfig{.bytes = 4 * kMiB}};
    for (uint32_t i = 0; i < disks; ++i) {
      const std::string path = absl::StrCat(testing::TempDir(), "/disk", i);
      std::ofstream(path).close();
      std::filesystem::resize_file(path, kMiB);
      config.devices.push_back(DiskConfig{.id = absl::StrCat("disk", i), .path = path});
    }
    auto run = PayloadMachine::Run("virtio", config);
    ASSERT_TRUE(run.ok()) << run.status();
    std::unique_ptr<PayloadMachine> machine = *std::move(run);
    const auto ready = machine->WaitFor("ready");
    ASSERT_TRUE(ready.ok()) << ready.status();
    EXPECT_EQ(ready->Number("rng") + ready->Number("blk") + ready->Number("balloon"), 3u);
    ASSERT_TRUE(machine->WaitFor("balloon").ok());
    ASSERT_TRUE(machine->WaitFor("virtio").ok());
    const absl::Status moved = Move(machine, config);
    ASSERT_TRUE(moved.ok()) << moved;
    const auto check = machine->Check();
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_GT(check->Number("blk_bytes"), 0u);
    for (uint32_t i = 0; i < disks; ++i) {
      std::ifstream image(config.all<DiskConfig>()[i]->path, std::ios::binary);
      const bool written = std::any_of(std::istreambuf_iterator<char>(image), {}, [](char c) { return c != 0; });
      EXPECT_EQ(written, i == nth) << "disk " << i;
    }
  }
}

TEST(SaveLoadTest, VirtioDevicesAtWorkGoOn) {
  const std::string disk = absl::StrCat(testing::TempDir(), "/save_load_disk.img");
  {
    const int fd = open(disk.c_str(), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, 16 * kMiB), 0);
    close(fd);
  }
  MachineConfig config = Config({.name = "", .options = "report_ms=10 blk_span=8M blk_chunk=16K fill=16M", .cpus = 1});
  config.devices = {RngConfig{}, BalloonConfig{.bytes = 4 * kMiB}, DiskConfig{.id = "work", .path = disk}};
  auto run = PayloadMachine::Run("virtio", config);
  ASSERT_TRUE(run.ok()) << run.status();
  std::unique_ptr<PayloadMachine> machine = *std::move(run);
  const auto ready = machine->WaitFor("ready");
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->Number("rng") + ready->Number("blk") + ready->Number("balloon"), 3u);
  ASSERT_TRUE(machine->WaitFor("balloon").ok());
  uint64_t blk_bytes = 0;
  uint64_t rng_bytes = 0;
  for (int i = 0; i < kMoves; ++i) {
    ASSERT_TRUE(machine->WaitFor("virtio").ok());
    const absl::Status moved = Move(machine, config);
    ASSERT_TRUE(moved.ok()) << "move " << i << ": " << moved;
    const auto line = machine->WaitFor("virtio");
    ASSERT_TRUE(line.ok()) << line.status();
    const auto check = machine->Check();
    ASSERT_TRUE(check.ok()) << "after move " << i << ": " << check.status();
    EXPECT_GT(check->Number("blk_bytes"), blk_bytes);
    EXPECT_GT(check->Number("rng_bytes"), rng_bytes);
    EXPECT_EQ(check->Number("balloon_pages"), 4 * kMiB / kPageBytes);
    blk_bytes = check->Number("blk_bytes");
    rng_bytes = check->Number("rng_bytes");
  }
  ASSERT_TRUE(machine->Send('q').ok());
  const auto done = machine->WaitFor("done");
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->Number("errors"), 0u);
  unlink(disk.c_str());
}

}  // namespace
}  // namespace ferrite
