// Guests of several sizes on every kind of memory reach all of it.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/fakes/huge_page_pool.h"
#include "tests/integration/payload_machine.h"

namespace ferrite {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;

MachineConfig Config(uint64_t bytes, MemoryBacking backing, std::string command_line) {
  MachineConfig config;
  config.cpus = 2;
  config.memory_bytes = bytes;
  config.memory_backing = backing;
  // What a page that is touched costs is counted.
  config.transparent_huge_pages = false;
  config.command_line = std::move(command_line);
  return config;
}

// Fills all the memory, or every so many pages of it, writes for a while, checks, and powers off. Returns the host
// memory in use before the end.
uint64_t FillAndCheck(MachineConfig config) {
  auto run = PayloadMachine::Run("dirty", std::move(config));
  EXPECT_TRUE(run.ok()) << run.status();
  if (!run.ok()) {
    return 0;
  }
  std::unique_ptr<PayloadMachine> machine = *std::move(run);
  for (const char* event : {"filled", "dirty", "dirty"}) {
    const auto line = machine->WaitFor(event);
    EXPECT_TRUE(line.ok()) << line.status();
  }
  const auto check = machine->Check();
  EXPECT_TRUE(check.ok()) << check.status();
  const auto resident = ResidentBytes(machine->memory());
  EXPECT_TRUE(resident.ok()) << resident.status();
  EXPECT_TRUE(machine->Send('q').ok());
  const auto stop = machine->WaitUntilStopped();
  EXPECT_TRUE(stop.ok()) << stop.status();
  return resident.ok() ? *resident : 0;
}

TEST(MemoryTest, SmallGuestUsesAllOfItsMemory) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    SCOPED_TRACE(std::string(MemoryBackingName(backing)));
    const uint64_t resident = FillAndCheck(Config(128 * kMiB, backing, "set=all mode=random"));
    EXPECT_GT(resident, 120 * kMiB);
    EXPECT_LE(resident, 128 * kMiB);
  }
}

TEST(MemoryTest, MemoryAboveFourGibIsReachedAndUntouchedMemoryTakesNone) {
  for (const MemoryBacking backing : {MemoryBacking::kMemfd, MemoryBacking::kAnonymous}) {
    SCOPED_TRACE(std::string(MemoryBackingName(backing)));
    // One page of every MiB: 5 GiB are 3 GiB below the hole and 2 GiB above 4 GiB.
    const uint64_t resident = FillAndCheck(Config(5 * kGiB, backing, "set=all stride=256 mode=random"));
    EXPECT_GT(resident, 5 * 1000 * kPageBytes);
    EXPECT_LT(resident, 64 * kMiB);
  }
}

TEST(MemoryTest, GuestOnHugePages) {
  constexpr uint64_t kPages = 64;
  const HugePagePool pool(kPages);
  if (!pool.status().ok()) {
    GTEST_SKIP() << pool.status();
  }
  EXPECT_EQ(FillAndCheck(Config(kPages * 2 * kMiB, MemoryBacking::kHugetlb2M, "set=all mode=random")), 128 * kMiB);
}

}  // namespace
}  // namespace ferrite
