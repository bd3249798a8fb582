// Dirty tracking misses no page, whoever wrote it: a vCPU, a device, the monitor.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "memory/page_bitmap.h"
#include "tests/integration/payload_machine.h"
#include "vmm/machine/balloon_port.h"
#include "vmm/machine/movable_machine.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// A copy of the memory that follows the machine only by what the dirty tracking says.
class Follower {
 public:
  explicit Follower(GuestMemory& memory) : memory_(memory) {
    for (const auto& region : memory.regions()) {
      bitmaps_.push_back(std::make_unique<PageBitmap>(region->pages()));
      copies_.emplace_back(region->bytes());
    }
  }

  // Copies the pages that were written since the last time; returns how many.
  absl::StatusOr<uint64_t> Follow(Machine& machine) {
    uint64_t copied = 0;
    for (size_t i = 0; i < bitmaps_.size(); ++i) {
      if (absl::Status status = machine.moving().CollectDirty(i, *bitmaps_[i]); !status.ok()) {
        return status;
      }
      const uint8_t* from = memory_.regions()[i]->guest_mapping().data();
      for (auto page = bitmaps_[i]->FindSet(0); page.has_value(); page = bitmaps_[i]->FindSet(*page + 1)) {
        std::memcpy(copies_[i].data() + *page * kPageBytes, from + *page * kPageBytes, kPageBytes);
        ++copied;
      }
      bitmaps_[i]->ClearAll();
    }
    return copied;
  }

  // The guest address of the first page that the copy has otherwise than the (paused) machine, or "".
  std::string FirstDifference() const {
    for (size_t i = 0; i < copies_.size(); ++i) {
      const MemoryRegion& region = *memory_.regions()[i];
      for (uint64_t offset = 0; offset < region.bytes(); offset += kPageBytes) {
        if (std::memcmp(copies_[i].data() + offset, region.guest_mapping().data() + offset, kPageBytes) != 0) {
          return absl::StrCat(region.name(), " + 0x", absl::Hex(offset));
        }
      }
    }
    return "";
  }

 private:
  GuestMemory& memory_;
  std::vector<std::unique_ptr<PageBitmap>> bitmaps_;
  std::vector<std::vector<uint8_t>> copies_;
};

// Rounds over a running machine, then one over the paused machine: the copy must be exact.
void ExpectCopyIsExact(PayloadMachine& machine, absl::string_view event) {
  Follower follower(machine.memory());
  ASSERT_TRUE(machine.machine().moving().StartDirtyTracking().ok());
  for (int pass = 0; pass < 3; ++pass) {
    uint64_t copied_pages = 0;
    for (int round = 0; round < 4; ++round) {
      const auto line = machine.WaitFor(event);
      ASSERT_TRUE(line.ok()) << line.status();
      const auto copied = follower.Follow(machine.machine());
      ASSERT_TRUE(copied.ok()) << copied.status();
      copied_pages += *copied;
    }
    EXPECT_GT(copied_pages, 0u);
    ASSERT_TRUE(machine.machine().Pause().ok());
    ASSERT_TRUE(follower.Follow(machine.machine()).ok());
    EXPECT_EQ(follower.FirstDifference(), "") << "pass " << pass;
    const auto quiet = follower.Follow(machine.machine());
    ASSERT_TRUE(quiet.ok()) << quiet.status();
    EXPECT_EQ(*quiet, 0u) << "pages are dirty that no one wrote";
    machine.console().SkipLines();
    ASSERT_TRUE(machine.machine().Resume().ok());
  }
  ASSERT_TRUE(machine.machine().moving().StopDirtyTracking().ok());
  const auto check = machine.Check();
  EXPECT_TRUE(check.ok()) << check.status();
}

class DirtyTrackingTest : public testing::TestWithParam<bool> {
 protected:
  MachineConfig Config(std::string command_line, uint32_t cpus) {
    MachineConfig config;
    config.cpus = cpus;
    config.memory_bytes = 64 * kMiB;
    config.command_line = std::move(command_line);
    config.dirty_ring = GetParam();
    return config;
  }
};

TEST_P(DirtyTrackingTest, SeesWhatVcpusWrite) {
  for (const char* options : {"mode=random set=16M report_ms=20", "mode=step set=8M report_ms=20"}) {
    SCOPED_TRACE(options);
    auto machine = PayloadMachine::Run("dirty", Config(options, 2));
    ASSERT_TRUE(machine.ok()) << machine.status();
    ASSERT_TRUE((*machine)->WaitFor("filled").ok());
    ExpectCopyIsExact(**machine, "dirty");
  }
}

TEST_P(DirtyTrackingTest, SeesWhatDevicesWriteAndTheBalloonDiscards) {
  const std::string disk = absl::StrCat(testing::TempDir(), "/dirty_disk.img");
  const int fd = open(disk.c_str(), O_CREAT | O_RDWR | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, 8 * kMiB), 0);
  close(fd);
  MachineConfig config = Config("blk_span=4M blk_chunk=16K fill=16M report_ms=20", 1);
  config.devices = {RngConfig{}, BalloonConfig{}, DiskConfig{.id = "work", .path = disk}};
  auto machine = PayloadMachine::Run("virtio", std::move(config));
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_TRUE((*machine)->WaitFor("ready").ok());
  ASSERT_TRUE((*machine)->machine().balloon()->SetTarget(8 * kMiB).ok());
  ExpectCopyIsExact(**machine, "virtio");
  ASSERT_TRUE((*machine)->machine().balloon()->SetTarget(2 * kMiB).ok());
  ExpectCopyIsExact(**machine, "virtio");
  unlink(disk.c_str());
}

TEST_P(DirtyTrackingTest, IdleGuestWritesFewPages) {
  auto machine = PayloadMachine::Run("dirty", Config("set=16M idle=1 report_ms=50", 1));
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_TRUE((*machine)->WaitFor("filled").ok());
  Follower follower((*machine)->memory());
  ASSERT_TRUE((*machine)->machine().moving().StartDirtyTracking().ok());
  const auto all = follower.Follow((*machine)->machine());
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(*all, 64 * kMiB / kPageBytes) << "at first all pages count as written";
  // A line that is read from here on was written after the look above.
  (*machine)->console().SkipLines();
  ASSERT_TRUE((*machine)->WaitFor("dirty").ok());
  ASSERT_TRUE((*machine)->WaitFor("dirty").ok());
  const auto few = follower.Follow((*machine)->machine());
  ASSERT_TRUE(few.ok()) << few.status();
  EXPECT_GT(*few, 0u);
  EXPECT_LT(*few, 16u);
}

INSTANTIATE_TEST_SUITE_P(All, DirtyTrackingTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) { return info.param ? "Ring" : "Log"; });

}  // namespace
}  // namespace ferrite
