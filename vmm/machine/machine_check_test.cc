#include "vmm/machine/machine_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "vmm/boot/acpi_tables.h"
#include "vmm/machine/platform.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

using Change = std::function<void(MachineConfig&)>;

std::string Check(const Change& change, DescribedBy by = DescribedBy::kPeer) {
  MachineConfig config;
  change(config);
  return std::string(CheckMachineConfig(config, by).message());
}

Change Disks(size_t count) {
  return [count](MachineConfig& config) {
    for (size_t i = 0; i < count; ++i) {
      config.devices.push_back(DiskConfig{.id = absl::StrCat("disk", i)});
    }
  };
}

TEST(MachineCheckTest, MachinesUpToEveryLimitAreValid) {
  const std::pair<const char*, Change> machines[] = {
      {"as it is made", [](MachineConfig&) {}},
      {"the smallest", [](MachineConfig& config) { config.memory_bytes = 16 * kMiB; }},
      {"the largest",
       [](MachineConfig& config) {
         config.cpus = 32;
         config.memory_bytes = 4096 * kGiB;
         config.command_line = std::string(2047, 'x');
         config.devices = {RngConfig{}, BalloonConfig{.bytes = config.memory_bytes}};
         Disks(16)(config);
         config.all<DiskConfig>()[0]->id = "ABCDEFGHIJ-_abcdef09";
       }},
      {"of huge pages",
       [](MachineConfig& config) {
         config.memory_bytes = 3 * kGiB;
         config.memory_backing = MemoryBacking::kHugetlb1G;
       }},
  };
  for (const auto& [what, change] : machines) {
    EXPECT_EQ(Check(change), "") << what;
  }
}

TEST(MachineCheckTest, OneBeyondALimitIsNoMachine) {
  const std::pair<const char*, Change> machines[] = {
      {"vCPUs: 0 is not in 1 to 32", [](MachineConfig& config) { config.cpus = 0; }},
      {"vCPUs: 33 is not in 1 to 32", [](MachineConfig& config) { config.cpus = 33; }},
      {"memory: 15M is not in 16M to 4T", [](MachineConfig& config) { config.memory_bytes = 15 * kMiB; }},
      {"is not in 16M to 4T", [](MachineConfig& config) { config.memory_bytes = 4096 * kGiB + 4096; }},
      {"is not a multiple of 4K", [](MachineConfig& config) { config.memory_bytes = 16 * kMiB + 512; }},
      {"33M is not a multiple of 2M, the page size of its memory backing hugetlb-2M",
       [](MachineConfig& config) {
         config.memory_bytes = 33 * kMiB;
         config.memory_backing = MemoryBacking::kHugetlb2M;
       }},
      {"balloon: 100 is not a multiple of 4096",
       [](MachineConfig& config) { config.devices = {BalloonConfig{.bytes = 100}}; }},
      {"balloon: 513M is more than the machine's 512M of memory",
       [](MachineConfig& config) { config.devices = {BalloonConfig{.bytes = 513 * kMiB}}; }},
      {"2048 bytes are more than the kernel's limit, 2047",
       [](MachineConfig& config) { config.command_line = std::string(2048, 'x'); }},
      {"an end in its middle", [](MachineConfig& config) { config.command_line = std::string("a\0b", 3); }},
      {"at most 16 disks", Disks(17)},
      {"disk id \"\"", [](MachineConfig& config) { config.devices = {DiskConfig{.id = ""}}; }},
      {"use 1 to 20 of", [](MachineConfig& config) { config.devices = {DiskConfig{.id = std::string(21, 'a')}}; }},
      {"disk id \"a/b\"", [](MachineConfig& config) { config.devices = {DiskConfig{.id = "a/b"}}; }},
      {"disk id \"\\x1b\"", [](MachineConfig& config) { config.devices = {DiskConfig{.id = "\x1b"}}; }},
      {"the machine's balloon: a machine has one at most",
       [](MachineConfig& config) {
         config.devices = {BalloonConfig{}, BalloonConfig{}};
       }},
      {"a machine has room for 21 devices, not for 22",
       [](MachineConfig& config) { config.devices.resize(22, RngConfig{}); }},
      {"two disks have the id a",
       [](MachineConfig& config) {
         config.devices = {DiskConfig{.id = "a"}, DiskConfig{.id = "a"}};
       }},
  };
  for (const auto& [words, change] : machines) {
    EXPECT_THAT(Check(change), HasSubstr(words));
  }
}

TEST(MachineCheckTest, PartsHaveTheNamesOfWhoDescribedThem) {
  EXPECT_THAT(Check([](MachineConfig& config) { config.memory_bytes = 0; }, DescribedBy::kCommandLine),
              StartsWith("--mem: "));
  EXPECT_THAT(Check(Disks(17), DescribedBy::kCommandLine), StartsWith("--disk: "));
  EXPECT_THAT(Check(Disks(17)), StartsWith("the machine's disks: "));
}

TEST(MachineCheckTest, HostHasWhatTheMachineNeeds) {
  const MachineConfig config{.cpus = 4, .memory_bytes = kGiB};
  const HostLimits host{.max_vcpus = 4, .memory = {.bytes = kGiB}};
  EXPECT_TRUE(CheckHostHas(config, host, DescribedBy::kPeer).ok());
  const HostLimits few{.max_vcpus = 3, .memory = {.bytes = kGiB}};
  EXPECT_THAT(CheckHostHas(config, few, DescribedBy::kPeer).message(),
              HasSubstr("4 are more than this host's KVM allows, 3"));
  const HostLimits small{.max_vcpus = 4, .memory = {.bytes = kGiB - 1}};
  EXPECT_THAT(CheckHostHas(config, small, DescribedBy::kPeer).message(), HasSubstr("1G is more than this host's "));
}

TEST(PlatformTest, EveryVirtioDeviceHasAWindowAndALineOfItsOwn) {
  std::set<uint32_t> lines = {0, 2, kSerialIrq};  // the timer, the second 8259
  AcpiPlatform platform{.cpus = kMaxCpus, .serial = AcpiPlatform::Serial{}};
  for (const uint8_t line : kVirtioIrqs) {
    EXPECT_LT(line, kIoApicPins);
    EXPECT_TRUE(lines.insert(line).second) << int{line};
    const uint64_t base = kVirtioMmioBase.value() + platform.virtio_mmio.size() * 4096;
    EXPECT_LE(base + 4096, kIoApicAddress);
    platform.virtio_mmio.push_back({.base = static_cast<uint32_t>(base), .bytes = 4096, .irq = line});
  }
  EXPECT_GE(platform.virtio_mmio.size(), 16u + 2 + 1 + 2) << "16 disks, two nets, a vsock, rng and balloon";
  EXPECT_TRUE(BuildAcpiTables(platform).ok());
}

}  // namespace
}  // namespace ferrite
