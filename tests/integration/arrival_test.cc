// What a destination makes of the machine that a source describes, and what it leaves when that ends early.
#include <capnp/message.h>
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

#include "absl/strings/match.h"
#include "devices/block/disk_image.h"
#include "proto/machine.capnp.h"
#include "proto/state.capnp.h"
#include "tests/integration/payload_machine.h"
#include "vmm/move/machine_arrival.h"
#include "vmm/move/state_blob.h"

namespace ferrite {
namespace {

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
    ASSERT_TRUE(source_->machine().Describe(description_.initRoot<state::MachineDescription>()).ok());
  }
  void TearDown() override {
    arrival_.reset();
    source_.reset();
    std::filesystem::remove_all(directory_);
  }

  state::MachineDescription::Builder described() { return description_.getRoot<state::MachineDescription>(); }
  absl::StatusOr<std::unique_ptr<migration::DestinationPort>> Build(ArrivalOptions options = {}) {
    options.name = "guest";
    arrival_ = std::make_unique<MachineArrival>(
        MachineArrival::Host{.kvm = there_->host().kvm, .loop = there_->host().loop}, std::move(options));
    return arrival_->Build(described().asReader());
  }

  std::string directory_;
  std::string disk_;
  capnp::MallocMessageBuilder description_;
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

}  // namespace
}  // namespace ferrite
