// What a destination makes of the machine that a source describes, and what it leaves when that ends early.
#include <capnp/message.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "devices/block/disk_image.h"
#include "proto/machine.capnp.h"
#include "proto/state.capnp.h"
#include "tests/integration/payload_machine.h"
#include "vmm/move/boot_files.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/machine_source.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class ArrivalTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-arrival-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    directory_ = name;
    disk_ = directory_ + "/disk";
    std::ofstream(disk_).close();
    ASSERT_EQ(truncate(disk_.c_str(), kMiB), 0);
    MachineConfig config;
    config.memory_bytes = 16 * kMiB;
    config.command_line = "mode=step set=4M report_ms=10";
    config.disks = {{.id = "root", .path = disk_}};
    auto run = PayloadMachine::Run("dirty", config);
    ASSERT_TRUE(run.ok()) << run.status();
    source_ = *std::move(run);
    auto there = PayloadMachine::Await();
    ASSERT_TRUE(there.ok()) << there.status();
    there_ = *std::move(there);
    MachineSource source(source_->machine(), directory_);
    ASSERT_TRUE(source.Describe(description_->initRoot<state::MachineDescription>()).ok());
  }
  void TearDown() override {
    arrival_.reset();
    source_.reset();
    std::filesystem::remove_all(directory_);
  }

  state::MachineDescription::Builder described() { return description_->getRoot<state::MachineDescription>(); }
  absl::StatusOr<std::unique_ptr<migration::DestinationPort>> Build(ArrivalOptions options = {}) {
    options.name = "guest";
    arrival_ = std::make_unique<MachineArrival>(
        MachineArrival::Host{.kvm = there_->host().kvm, .loop = there_->host().loop}, std::move(options));
    return arrival_->Build(described().asReader());
  }

  // The reason, "" when it was built.
  std::string Refusal(ArrivalOptions options = {}) {
    const auto port = Build(std::move(options));
    return port.ok() ? "" : std::string(port.status().message());
  }
  std::string MakeFile(const std::string& name, const std::string& text) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  void DescribeInitrd(const std::string& path) {
    described().getBoot().setInitrdPath(path);
    DescribeBootFile(path, described().getBoot().initInitrd());
  }

  std::string directory_;
  std::string disk_;
  const std::unique_ptr<capnp::MallocMessageBuilder> description_ = std::make_unique<capnp::MallocMessageBuilder>();
  std::unique_ptr<PayloadMachine> source_;
  std::unique_ptr<PayloadMachine> there_;
  std::unique_ptr<MachineArrival> arrival_;
};

// `stop` between GRANT and RUNNING: the source takes the disks as soon as it hears of it.
TEST_F(ArrivalTest, MachineThatIsStoppedBeforeItRanHasNoDisksAnyMore) {
  auto port = Build();
  ASSERT_TRUE(port.ok()) << port.status();
  for (const bool paused : {false, true}) {
    SCOPED_TRACE(paused);
    port = Build();
    ASSERT_TRUE(port.ok()) << port.status();
    ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
    capnp::MallocMessageBuilder message;
    ASSERT_EQ(source_->machine().Save(message.initRoot<state::Machine>()), absl::OkStatus());
    message.getRoot<state::Machine>().setPaused(paused);
    ASSERT_EQ((*port)->LoadState(EncodeState(message)), absl::OkStatus());
    ASSERT_EQ(source_->machine().ReleaseDisks(), absl::OkStatus());
    ASSERT_EQ((*port)->AcquireDisks(), absl::OkStatus());
    EXPECT_FALSE(source_->machine().Resume().ok()) << "R2: the disk is the other's";
    arrival_->machine()->Stop();
    EXPECT_FALSE((*port)->Run().ok());
    EXPECT_EQ(source_->machine().Resume(), absl::OkStatus()) << "R3";
  }
}

TEST_F(ArrivalTest, DiskThatTheSourceNamesIsTakenOnlyWhileItIsInUse) {
  EXPECT_EQ(Refusal(), "");
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  ASSERT_EQ(source_->machine().ReleaseDisks(), absl::OkStatus());
  const std::string refusal = Refusal();
  EXPECT_THAT(refusal, HasSubstr(disk_ + " is not open here as the source's disk would be"));
  EXPECT_THAT(refusal, HasSubstr("`ferrite receive --disk root=PATH`"));
  EXPECT_EQ(Refusal({.disk_paths = {{"root", disk_}}, .trust_disks = true}), "") << "the operator's word";
  // Somebody who only reads it holds it otherwise than the source of a disk to write to would.
  auto reader = DiskImage::Create(disk_, /*read_only=*/true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT(Refusal(), HasSubstr("is not open here"));
  described().getDisks()[0].setReadOnly(true);
  EXPECT_EQ(Refusal(), "");
}

// Of the same size, but not the same.
TEST_F(ArrivalTest, AnotherDiskThanTheSourcesIsRefusedWhereThatShows) {
  char name[] = "/dev/shm/ferrite-arrival-XXXXXX";
  const int fd = mkstemp(name);
  ASSERT_GE(fd, 0);
  const absl::Cleanup remove = [&] {
    close(fd);
    unlink(name);
  };
  ASSERT_EQ(ftruncate(fd, kMiB), 0);
  const std::string refusal = Refusal({.disk_paths = {{"root", name}}});
  EXPECT_THAT(refusal,
              HasSubstr(std::string(name) + " is on a file system of this host alone, and nobody has it open"));
  EXPECT_THAT(refusal, HasSubstr("`ferrite receive --trust-disks`"));
  EXPECT_EQ(Refusal({.disk_paths = {{"root", name}}, .trust_disks = true}), "");
  EXPECT_EQ(Refusal({.disk_paths = {{"root", disk_}}}), "") << "the source's";
  described().getDisks()[0].setReadOnly(true);
  EXPECT_EQ(Refusal({.disk_paths = {{"root", name}}}), "") << "a copy of what is only read";
}

// A peer that names any file of the host must not have the guest write to it, nor keep its owner from it.
TEST_F(ArrivalTest, DiskIsNotOpenedForWritingBeforeItIsTaken) {
  ASSERT_EQ(source_->machine().Pause(), absl::OkStatus());
  ASSERT_EQ(source_->machine().ReleaseDisks(), absl::OkStatus());
  const int fd = open(disk_.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const absl::Cleanup close_it = [&] { close(fd); };
  EXPECT_EQ(Refusal({.disk_paths = {{"root", disk_}}, .trust_disks = true}), "");
  // A lease of this kind is given only when nobody has the file open for writing.
  EXPECT_EQ(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
}

TEST_F(ArrivalTest, KernelAndInitrdThatTheSourceNamesAreTakenIfTheyAreTheSame) {
  EXPECT_EQ(Refusal(), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, source_->machine().config().kernel_path);
  const std::string initrd = MakeFile("initrd", "a RAM disk");
  DescribeInitrd(initrd);
  EXPECT_EQ(Refusal(), "");
  EXPECT_EQ(arrival_->machine()->config().initrd_path, initrd);

  // As if there was another file at the destination.
  for (const char* other : {"a RAM disc", "a longer RAM disk", ""}) {
    MakeFile("initrd", other);
    const std::string refusal = Refusal();
    EXPECT_THAT(refusal, HasSubstr("initrd " + initrd + " here is not the source's"));
    EXPECT_THAT(refusal, HasSubstr("`ferrite receive --kernel FILE [--initrd FILE]`"));
    EXPECT_THAT(refusal, HasSubstr("--no-reboot"));
  }
  std::filesystem::remove(initrd);
  EXPECT_THAT(Refusal(), HasSubstr("initrd: " + initrd + ": No such file"));
  MakeFile("initrd", "a RAM disk");
  EXPECT_EQ(Refusal(), "");
}

TEST_F(ArrivalTest, KernelWithoutProofIsRefused) {
  described().getBoot().setKernelPath("/etc/passwd");
  EXPECT_THAT(Refusal(), HasSubstr("kernel /etc/passwd here is not the source's"));
  described().getBoot().disownKernel();
  EXPECT_THAT(Refusal(), HasSubstr("the source does not say what is in it"));
  described().getBoot().setKernelPath("/dev/null");
  described().getBoot().initKernel().initSha256(31);
  EXPECT_THAT(Refusal(), HasSubstr("the source does not say what is in it"));
  DescribeBootFile(directory_ + "/gone", described().getBoot().initKernel());
  EXPECT_THAT(Refusal(), HasSubstr("the source cannot read its own any more: " + directory_ + "/gone: No such file"));
  const std::string huge = MakeFile("huge", "");
  std::filesystem::resize_file(huge, uint64_t{5} << 30);
  DescribeBootFile(huge, described().getBoot().initKernel());
  EXPECT_THAT(Refusal(), HasSubstr("huge: more than 4 GiB"));
  described().getBoot().initKernel().initSha256(32);
  EXPECT_THAT(Refusal(), HasSubstr("/dev/null: no regular file"));
}

TEST_F(ArrivalTest, KernelOfTheOperatorNeedsNoProof) {
  described().getBoot().setKernelPath("/nowhere/vmlinuz");
  described().getBoot().setInitrdPath("/nowhere/initrd");
  const std::string kernel = PayloadPath("dirty");
  ASSERT_EQ(Refusal({.kernel_path = kernel}), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, kernel);
  EXPECT_EQ(arrival_->machine()->config().initrd_path, "") << "the source's is not that kernel's";
  ASSERT_EQ(Refusal({.kernel_path = kernel, .initrd_path = kernel}), "");
  EXPECT_EQ(arrival_->machine()->config().initrd_path, kernel);
}

TEST_F(ArrivalTest, MachineThatDoesNotBootAgainNeedsNoKernel) {
  described().setRebootOnReset(false);
  described().getBoot().setKernelPath("/nowhere/vmlinuz");
  ASSERT_EQ(Refusal(), "");
  EXPECT_EQ(arrival_->machine()->config().kernel_path, "");
}

}  // namespace
}  // namespace ferrite
