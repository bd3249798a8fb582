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
#include "base/pinned_file.h"
#include "base/status.h"
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
    copies_.clear();
    return ConfigOf(
        described, regions_, options_, *files, digests, host_,
        [this](absl::string_view words) { absl::StrAppend(&told_, words, "\n"); },
        [this](const std::string& id, uint64_t bytes,
               const AllowedFiles::CopyPlace& place) -> absl::StatusOr<std::shared_ptr<const PinnedFile>> {
          absl::StrAppend(&copies_, id, " ", bytes, " ", place.path, place.file != nullptr ? " over" : "", "\n");
          FERRITE_RETURN_IF_ERROR(refuses_copy_);
          auto file = PinnedFile::Find(image_, PinnedFile::Links::kOwn);
          FERRITE_RETURN_IF_ERROR(file.status());
          return std::make_shared<const PinnedFile>(*std::move(file));
        });
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
  std::string copies_;  // that were opened
  absl::Status refuses_copy_;
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

// A machine whose source would copy the disk "root".
class CopiedDiskTest : public DescriptionTest {
 protected:
  void SetUp() override {
    DescriptionTest::SetUp();
    options_.disk_paths.clear();
    options_.trust_disks = false;
    Offer("root");
  }
  void Offer(const std::string& id) {
    regions_.push_back({.kind = migration::RegionKind::kDisk, .name = id, .bytes = 65536, .page_bytes = 65536});
  }
};

TEST_F(CopiedDiskTest, IsCopiedToWhereItsOptionSays) {
  options_.disk_copies["root"] = {.path = directory_ + "/new.img"};
  const auto config = Configure(kUnchanged);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(copies_, absl::StrCat("root 4096 ", directory_, "/new.img\n"));
  const DiskConfig& disk = std::get<DiskConfig>(config->devices[2]);
  EXPECT_EQ(disk.path, image_) << "as it was opened";
  EXPECT_NE(disk.file, nullptr);
  EXPECT_EQ(disk.sectors, kSampleDiskBytes / kSectorBytes);
}

TEST_F(CopiedDiskTest, IsCopiedOverWhatIsThere) {
  options_.disk_copies["root"] = {.path = image_, .existing = true};
  ASSERT_TRUE(Configure(kUnchanged).ok());
  EXPECT_EQ(copies_, absl::StrCat("root 4096 ", image_, " over\n"));
}

TEST_F(CopiedDiskTest, IsCopiedToTheDirectoryUnderItsOwnName) {
  options_.disk_copy_dir = directory_;
  ASSERT_TRUE(Configure(kUnchanged).ok());
  EXPECT_EQ(copies_, absl::StrCat("root 4096 ", directory_, "/here-root.img\n"));
}

// With a place and a path both sides could reach it, or not: the path is what its user said of this disk.
TEST_F(CopiedDiskTest, IsSharedWhereItsOptionSaysSo) {
  options_.disk_copy_dir = directory_;
  options_.disk_paths = {{"root", image_}};
  options_.trust_disks = true;
  ASSERT_TRUE(Configure(kUnchanged).ok());
  EXPECT_EQ(copies_, "");
}

TEST_F(CopiedDiskTest, IsSharedWhereTheSourceDoesNotOfferIt) {
  regions_ = RegionsOf(kSampleMemoryBytes);
  options_.disk_copy_dir = directory_;
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("disk root: its image cannot be used here"));
  options_.disk_copies["root"] = {.path = directory_ + "/new.img"};
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("disk root: its image cannot be used here"));
  EXPECT_THAT(told_, HasSubstr("it is not copied, to "));
  EXPECT_EQ(copies_, "");
}

TEST_F(CopiedDiskTest, NeedsAPlace) {
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("`--disk-copy root=PATH` has it copied"));
  EXPECT_EQ(copies_, "");
}

TEST_F(CopiedDiskTest, PeerHearsNothingOfThePlace) {
  options_.disk_copies["root"] = {.path = directory_ + "/new.img"};
  refuses_copy_ = absl::ResourceExhaustedError(absl::StrCat("make ", directory_, "/new.img: No space left on device"));
  const std::string refusal = Refusal(kUnchanged);
  EXPECT_THAT(refusal, Not(HasSubstr(directory_)));
  EXPECT_THAT(refusal, Not(HasSubstr("space")));
  EXPECT_THAT(told_, HasSubstr("No space left on device"));
}

TEST_F(CopiedDiskTest, LargerOneThanAllowedIsRefused) {
  options_.disk_copy_dir = directory_;
  options_.limits.disk_bytes = kSampleDiskBytes - 1;
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("disk root: its image cannot be used here"));
  EXPECT_THAT(told_, HasSubstr("it has 4K to copy, `ferrite receive --max-disk` allows 4095"));
  options_.limits.disk_bytes = kSampleDiskBytes;
  EXPECT_TRUE(Configure(kUnchanged).ok());
  for (const uint64_t odd : {uint64_t{0}, uint64_t{513}}) {
    EXPECT_THAT(Refusal([odd](Description out) { out.getDisks()[0].setBytes(odd); }), HasSubstr("cannot be used"));
  }
}

TEST_F(CopiedDiskTest, RegionThatIsNoDiskOfItIsRefused) {
  options_.disk_copy_dir = directory_;
  Offer("data");
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("comes with the region data, which is none of its disks"));
  regions_.pop_back();
  Offer("root");
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("comes with the region root"));
  regions_.back() = regions_[0];  // memory behind a disk
  EXPECT_FALSE(Configure(kUnchanged).ok());
  EXPECT_EQ(copies_, "");
}

TEST_F(CopiedDiskTest, PlaceForNoDiskOfItIsRefused) {
  options_.disk_copies["root"] = {.path = directory_ + "/new.img"};
  options_.disk_copies["data"] = {.path = directory_ + "/data.img"};
  EXPECT_THAT(Refusal(kUnchanged), HasSubstr("no disk with the id data, for which --disk-copy names a path"));
}

}  // namespace
}  // namespace ferrite
