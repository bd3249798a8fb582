#include "vmm/move/description.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "devices/block/disk_image.h"
#include "migration/api/machine_spec.h"
#include "tests/fakes/sample_machine.h"
#include "vmm/machine/state_version.h"
#include "vmm/move/allowed_files.h"
#include "vmm/move/boot_files.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Description = state::MachineDescription::Builder;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class DescriptionTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-description-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    image_ = directory_ + "/root.img";
    std::ofstream(image_).close();
    std::filesystem::resize_file(image_, kSampleDiskBytes);
    options_.name = "here";
    options_.disk_paths = {{"root", image_}};
    options_.trust_disks = true;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // The configuration of a described machine in which `change` changed something.
  absl::StatusOr<MachineConfig> Configure(const std::function<void(Description)>& change) {
    capnp::MallocMessageBuilder message;
    auto described = message.initRoot<state::MachineDescription>();
    DescribeSampleMachine(described);
    change(described);
    return Configure(described.asReader());
  }
  absl::StatusOr<MachineConfig> Configure(state::MachineDescription::Reader described) {
    const auto files = AllowedFiles::Find(options_);
    EXPECT_TRUE(files.ok()) << files.status();
    BootFileDigests digests;
    told_.clear();
    return ConfigOf(described, regions_, options_, *files, digests, host_,
                    [this](absl::string_view words) { absl::StrAppend(&told_, words, "\n"); });
  }
  std::string Refusal(const std::function<void(Description)>& spoil) {
    return std::string(Configure(spoil).status().message());
  }

  std::string directory_;
  std::string image_;
  ArrivalOptions options_;
  std::vector<migration::MachineSpec::Region> regions_ = RegionsOf(kSampleMemoryBytes);
  HostLimits host_ = HostOfSampleMachine();
  std::string told_;
};

std::function<void(Description)> DiskCalled(const std::string& id) {
  return [id](Description out) {
    out.getDisks()[0].setId(id);
    out.getDevices()[2].setName(absl::StrCat("virtio-blk:", id));
  };
}

constexpr auto kUnchanged = [](Description) {};

TEST_F(DescriptionTest, MakesTheSameMachine) {
  options_.dirty_ring = true;
  const auto config = Configure(kUnchanged);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "here");
  EXPECT_EQ(config->cpus, 2u);
  EXPECT_EQ(config->memory_bytes, 64 * kMiB);
  EXPECT_EQ(config->memory_backing, MemoryBacking::kMemfd);
  EXPECT_TRUE(config->dirty_ring);
  ASSERT_EQ(config->devices.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<RngConfig>(config->devices[0]));
  EXPECT_EQ(std::get<BalloonConfig>(config->devices[1]).bytes, 0u) << "the target comes with the state";
  EXPECT_TRUE(config->disks_elsewhere);
  const DiskConfig& disk = std::get<DiskConfig>(config->devices[2]);
  EXPECT_EQ(disk.id, "root");
  EXPECT_EQ(disk.path, image_);
  EXPECT_EQ(disk.sectors, kSampleDiskBytes / kSectorBytes);
  EXPECT_FALSE(disk.read_only);
  EXPECT_FALSE(config->reboot_on_reset);
  EXPECT_EQ(config->command_line, "console=ttyS0");
  EXPECT_THAT(told_, IsEmpty());
}

TEST_F(DescriptionTest, SeedOfTheFuzzTargetIsAGoodMachine) {
  std::ifstream file("vmm/move/testdata/description_fuzz/machine", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  ASSERT_EQ(bytes.size() % sizeof(capnp::word), 0u);
  kj::Array<capnp::word> words = kj::heapArray<capnp::word>(bytes.size() / sizeof(capnp::word));
  std::ranges::copy(bytes, words.asChars().begin());
  capnp::FlatArrayMessageReader seed(words);
  const auto config = Configure(seed.getRoot<state::MachineDescription>());
  EXPECT_TRUE(config.ok()) << config.status();
}

TEST_F(DescriptionTest, WhatThisHostDoesNotHaveIsRefused) {
  host_.max_vcpus = 1;
  EXPECT_EQ(Refusal(kUnchanged), "the machine's vCPUs: 2 are more than this host's KVM allows, 1");
  host_ = HostOfSampleMachine();
  host_.memory.bytes = 63 * kMiB;
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("the machine's memory: 64M is more than this host's 63"));
  host_ = HostOfSampleMachine();
  host_.cpuid[1].edx &= ~(1u << 26);
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("which this host does not offer"));
}

TEST_F(DescriptionTest, WhatIsNoMachineIsRefused) {
  const std::pair<const char*, std::function<void(Description)>> refusals[] = {
      {"vCPUs: 0 is not in", [](Description out) { out.setCpus(0); }},
      {"33 vCPUs", [](Description out) { out.setCpus(33); }},
      {"paper", [](Description out) { out.getMemory().setBacking("paper"); }},
      {"the machine's memory: ", [](Description out) { out.getMemory().setBytes(0); }},
      {"the machine's memory: ", [](Description out) { out.getMemory().setBytes(64 * kMiB + 1); }},
      {"the machine's memory: ", [](Description out) { out.getMemory().setBytes(8 * kMiB); }},
      {"the machine's memory: ", [](Description out) { out.getMemory().setBytes(~uint64_t{0}); }},
      {"does not know the device virtio-toaster",
       [](Description out) { out.getDevices()[0].setName("virtio-toaster"); }},
      {"the device serial0 twice", [](Description out) { out.getDevices()[0].setName("serial0"); }},
      {"lacks the device power",
       [](Description out) {
         auto devices = out.initDevices(2);
         devices[0].setName("virtio-blk:root");
         devices[1].setName("serial0");
       }},
      {"the device virtio-blk:other has no disk",
       [](Description out) { out.getDevices()[2].setName("virtio-blk:other"); }},
      {"the disk root has no device",
       [](Description out) {
         auto devices = out.initDevices(2);
         devices[0].setName("serial0");
         devices[1].setName("power");
       }},
      {"describes a disk twice",
       [](Description out) {
         auto disks = out.initDisks(2);
         disks[0].setId("root");
         disks[1].setId("root");
       }},
      {"the machine's disks: disk id", DiskCalled("")},
      {"the machine's disks: disk id", DiskCalled(std::string(21, 'a'))},
      {"the machine's disks: disk id", DiskCalled("a/b")},
      {"disk id has characters that cannot be shown", [](Description out) { out.getDisks()[0].setId("\x1b[2J"); }},
      {"has an end in its middle", [](Description out) { out.getBoot().setCommandLine(kj::StringPtr("a\0b", 3)); }},
  };
  for (const auto& [words, spoil] : refusals) {
    EXPECT_THAT(Refusal(spoil), HasSubstr(words));
  }
}

TEST_F(DescriptionTest, MemoryThatLiesElsewhereIsRefused) {
  regions_ = RegionsOf(uint64_t{4} << 30);
  EXPECT_EQ(Refusal(kUnchanged), "the machine has 2 memory regions, here it would have 1");
  regions_.assign(3, {});
  EXPECT_EQ(Refusal(kUnchanged), "the machine has 3 memory regions, here it would have 1");
  regions_.clear();
  EXPECT_EQ(Refusal(kUnchanged), "the machine has 0 memory regions, here it would have 1");
  regions_ = RegionsOf(4096);
  EXPECT_EQ(Refusal(kUnchanged), "memory region ram-low has 4096 bytes at 0 at the source, but 67108864 at 0 here");
  regions_ = RegionsOf(kSampleMemoryBytes);
  regions_[0].base = 4096;
  EXPECT_EQ(Refusal(kUnchanged),
            "memory region ram-low has 67108864 bytes at 4096 at the source, but 67108864 at 0 here");
}

TEST_F(DescriptionTest, PeerHearsNothingOfThisHostsFiles) {
  const auto none = [](Description out) { out.getDisks()[0].setBytes(2 * kSampleDiskBytes); };
  EXPECT_THAT(Refusal(none), Not(HasSubstr(image_)));
  EXPECT_THAT(told_, HasSubstr(absl::StrCat(image_, " has ", kSampleDiskBytes)));
  const std::string refusal = Refusal(none);
  options_.disk_paths.clear();
  EXPECT_EQ(Refusal(none), refusal) << "whatever is the matter";
  EXPECT_THAT(told_, HasSubstr("/images/root.img"));
}

TEST_F(DescriptionTest, DiskBelowADirectoryIsTakenWhileTheSourceHasIt) {
  options_.disk_paths.clear();
  options_.disk_from = {directory_};
  const auto there = [this](Description out) { out.getDisks()[0].setPath(image_); };
  EXPECT_THAT(Refusal(there), HasSubstr("disk root: its image cannot be used here"));
  EXPECT_THAT(told_, HasSubstr("is not open here as the source's disk would be"));
  const auto source = DiskImage::Create(image_, /*read_only=*/false);
  ASSERT_TRUE(source.ok()) << source.status();
  const auto config = Configure(there);
  EXPECT_TRUE(config.ok()) << config.status() << told_;
}

TEST_F(DescriptionTest, DiskThatIsNotTheMachinesIsRefused) {
  options_.disk_paths["data"] = image_;
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("no disk with the id data"));
}

class SameMachineTest : public testing::Test {
 protected:
  absl::Status Check(const std::function<void(Description)>& change) {
    capnp::MallocMessageBuilder theirs;
    auto there = theirs.initRoot<state::MachineDescription>();
    DescribeSampleMachine(there);
    change(there);
    capnp::MallocMessageBuilder ours;
    DescribeSampleMachine(ours.initRoot<state::MachineDescription>());
    return CheckSameMachine(there.asReader(), ours.getRoot<state::MachineDescription>().asReader());
  }
};

TEST_F(SameMachineTest, EachDeviceIsInAVersionThatIsRead) {
  EXPECT_TRUE(Check([](Description) {}).ok());
  EXPECT_TRUE(Check([](Description out) { out.getDevices()[1].setVersion(0); }).ok()) << "older is fine";
  EXPECT_TRUE(Check([](Description out) { out.setStateVersion(kMachineStateVersion); }).ok()) << "it has lost pages";
  EXPECT_THAT(Check([](Description out) { out.setStateVersion(kMachineStateVersion + 1); }).message(),
              HasSubstr("state has version 3, this ferrite reads at most 2"));
  EXPECT_THAT(Check([](Description out) { out.getDevices()[3].setVersion(7); }).message(),
              HasSubstr("serial0 has state version 7, this ferrite reads at most 1"));
  EXPECT_THAT(Check([](Description out) { out.getDevices()[0].setName("serial0"); }).message(), HasSubstr("twice"));
  EXPECT_THAT(Check([](Description out) { out.initDevices(0); }).message(), HasSubstr("the machine lacks the device"));
}

}  // namespace
}  // namespace ferrite
