// What a peer may write into the description of its machine: how much of everything, and in which words. A destination
// refuses before it makes anything, at once, and in words that a terminal shows as text (R7, R11).
#include <capnp/message.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/clean_text.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/pinned_file.h"
#include "migration/api/machine_spec.h"
#include "proto/machine.capnp.h"
#include "tests/fakes/captured_log.h"
#include "tests/fakes/spoilt_machine.h"
#include "tests/fakes/whole_spec.h"
#include "tests/integration/payload_machine.h"
#include "vmm/move/boot_files.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

using Description = state::MachineDescription::Builder;
using Regions = std::vector<migration::MachineSpec::Region>;

class HostileDescriptionTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-hostile-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    const std::string disk = directory_ + "/disk";
    std::ofstream(disk).close();
    ASSERT_EQ(truncate(disk.c_str(), kMiB), 0);
    MachineConfig config;
    config.memory_bytes = 16 * kMiB;
    config.cpus = 2;
    config.command_line = "mode=step set=4M report_ms=10";
    config.devices = {DiskConfig{.id = "root", .path = disk}};
    auto run = PayloadMachine::Run("dirty", config);
    ASSERT_TRUE(run.ok()) << run.status();
    source_ = *std::move(run);
    auto there = PayloadMachine::Await();
    ASSERT_TRUE(there.ok()) << there.status();
    there_ = *std::move(there);
    // The test's own may be a link.
    kernel_ = directory_ + "/kernel";
    std::filesystem::copy_file(PayloadPath("dirty"), kernel_);
  }
  void TearDown() override {
    source_.reset();
    std::filesystem::remove_all(directory_);
  }

  // The words of the refusal of what `spoil` makes of a good description.
  std::string Refusal(const std::function<void(Description)>& spoil, ArrivalLimits limits = {}) {
    return Refusal([&](Description out, Regions&) { spoil(out); }, limits);
  }
  std::string Refusal(const std::function<void(Description, Regions&)>& spoil, ArrivalLimits limits = {}) {
    capnp::MallocMessageBuilder message;
    const Fd directory(open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MachineSource source(source_->machine(), directory);
    const auto spec = migration::WholeSpec(source);
    EXPECT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(CopyDescription(*spec, message), absl::OkStatus());
    Description described = message.getRoot<state::MachineDescription>();
    described.getBoot().setKernelPath(kernel_);
    auto kernel = PinnedFile::Find(kernel_, PinnedFile::Links::kAll);
    EXPECT_TRUE(kernel.ok()) << kernel.status();
    DescribeBootFile({.file = *std::move(kernel), .content = std::nullopt}, /*ended=*/false,
                     described.getBoot().initKernel());
    Regions regions = spec->regions;
    spoil(described, regions);
    const auto arrival = MachineArrival::Create(
        {.kvm = there_->host().kvm, .loop = there_->host().loop},
        {.name = "guest", .disk_from = {directory_}, .boot_from = {directory_}, .limits = limits});
    EXPECT_TRUE(arrival.ok()) << arrival.status();
    migration::MachineSpec spoilt = EncodeDescription(message);
    spoilt.regions = std::move(regions);
    const auto port = (*arrival)->Build(spoilt);
    EXPECT_FALSE(port.ok());
    EXPECT_EQ((*arrival)->machine(), nullptr);
    return std::string(port.status().message());
  }

  std::string directory_;
  std::string kernel_;
  std::unique_ptr<PayloadMachine> source_;
  std::unique_ptr<PayloadMachine> there_;
};

TEST_F(HostileDescriptionTest, WordsOfTheRefusalAreClean) {
  constexpr char kEscape[] = "\x1b]0;root\a\x1b[2J\r\xff";
  const std::pair<const char*, std::function<void(Description)>> texts[] = {
      {"memory backing", [&](Description out) { out.getMemory().setBacking(kEscape); }},
      {"device name", [&](Description out) { out.getDevices()[0].setName(kEscape); }},
      {"device name", [&](Description out) { out.getDevices()[0].setName(absl::StrCat("virtio-blk:", kEscape)); }},
      {"disk id", [&](Description out) { out.getDisks()[0].setId(kEscape); }},
      {"disk path", [&](Description out) { out.getDisks()[0].setPath(absl::StrCat("/", kEscape)); }},
      {"kernel path", [&](Description out) { out.getBoot().setKernelPath(absl::StrCat("/", kEscape)); }},
      {"initrd path", [&](Description out) { out.getBoot().setInitrdPath(absl::StrCat("/", kEscape)); }},
  };
  for (const auto& [what, spoil] : texts) {
    SCOPED_TRACE(what);
    const std::string refusal = Refusal(spoil);
    EXPECT_THAT(refusal, HasSubstr(absl::StrCat("the machine's ", what, " has characters that cannot be shown: '")));
    EXPECT_THAT(refusal, HasSubstr("?]0;root??[2J?\?'"));
    EXPECT_TRUE(IsClean(refusal)) << refusal;
  }
  const std::string problem = Refusal([&](Description out) {
    out.getBoot().getKernel().initSha256(0);
    out.getBoot().getKernel().setProblem(kEscape);
  });
  EXPECT_THAT(problem, HasSubstr("the source cannot read its own any more: ?]0;root??[2J??"));
  EXPECT_TRUE(IsClean(problem)) << problem;
}

// What can be compared is, before anything is made: here that would fail for want of huge pages, where none are
// reserved.
TEST_F(HostileDescriptionTest, IsComparedBeforeAMachineIsMade) {
  const auto huge = [](Description out) {
    out.getMemory().setBacking(std::string(MemoryBackingName(MemoryBacking::kHugetlb2M)));
  };
  EXPECT_THAT(Refusal([&](Description out, Regions& regions) {
                huge(out);
                regions.resize(2);
              }),
              HasSubstr("the machine has 2 memory regions, here it would have 1"));
  EXPECT_THAT(Refusal([&](Description out, Regions& regions) {
                huge(out);
                regions[0].base = 4096;
              }),
              HasSubstr("memory region ram-low has 16777216 bytes at 4096 at the source, but 16777216 at 0 here"));
  EXPECT_THAT(Refusal([&](Description out) {
                huge(out);
                out.getDevices()[0].setName(out.getDevices()[1].getName());
              }),
              HasSubstr(" twice"));
  EXPECT_THAT(Refusal([&](Description out) {
                huge(out);
                for (auto device : out.getDevices()) {
                  if (device.getName() == "power") {
                    device.setName("virtio-rng");
                  }
                }
              }),
              HasSubstr("the machine lacks the device power, which it would have here"));
}

TEST_F(HostileDescriptionTest, MoreThanRunCanGiveIsRefused) {
  const auto with_disks = [](uint32_t count) {
    return [count](Description out) {
      auto disks = out.initDisks(count);
      auto devices = out.initDevices(count);
      for (uint32_t i = 0; i < count; ++i) {
        disks[i].setId(absl::StrCat("disk", i));
        disks[i].setPath("/dev/null");
        devices[i].setName(absl::StrCat("virtio-blk:disk", i));
      }
    };
  };
  EXPECT_THAT(Refusal([](Description out) { out.initDisks(17); }),
              HasSubstr("17 disks, a machine here has at most 16"));
  const MonotonicTime start = MonotonicTime::Now();
  EXPECT_THAT(Refusal(with_disks(10'000)), HasSubstr("10000 devices, a machine here has at most 20"));
  EXPECT_THAT(Refusal([](Description out) { out.initDisks(1'000'000); }), HasSubstr("1000000 disks"));
  // Each of a million beside each other would take hours; a sanitizer is allowed its seconds.
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(30));
}

TEST_F(HostileDescriptionTest, MoreThanTheUserAllowsIsRefusedBeforeAnythingIsMade) {
  const auto none = [](Description) {};
  EXPECT_THAT(Refusal(none, {.memory_bytes = 15 * kMiB}),
              HasSubstr("16M of memory, `ferrite receive --max-mem` allows 15M"));
  EXPECT_THAT(Refusal(none, {.cpus = 1}), HasSubstr("2 vCPUs, `ferrite receive --max-cpus` allows 1"));
}

TEST_F(HostileDescriptionTest, KernelThatTheMachineHasNoRoomForIsNotRead) {
  const std::string large = directory_ + "/large";
  std::ofstream(large).close();
  std::filesystem::resize_file(large, uint64_t{4} << 30);
  const CapturedLog captured;
  const std::string refusal = Refusal([&](Description out) {
    out.getBoot().setKernelPath(large);
    out.getBoot().getKernel().setBytes(uint64_t{4} << 30);
  });
  EXPECT_THAT(refusal, HasSubstr("its kernel and initrd cannot be used here"));
  EXPECT_THAT(captured.text(), HasSubstr("is larger than the memory of the machine that would boot it"));
}

}  // namespace
}  // namespace ferrite
