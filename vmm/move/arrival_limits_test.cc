#include "vmm/move/arrival_limits.h"

#include <capnp/message.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace ferrite {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::string Check(const std::function<void(state::MachineDescription::Builder)>& fill,
                  const ArrivalLimits& limits = {}) {
  capnp::MallocMessageBuilder message;
  auto machine = message.initRoot<state::MachineDescription>();
  machine.setCpus(32);
  machine.initMemory().setBytes(512 * kMiB);
  machine.initDevices(20);
  machine.initDisks(16);
  machine.initCpuid(256);
  machine.initBoot().setCommandLine(std::string(2047, 'x'));
  fill(machine);
  return std::string(CheckLimits(machine.asReader(), limits).message());
}

TEST(ArrivalLimitsTest, MachineThatHasAllThatRunCanGiveIsWithinThem) {
  EXPECT_EQ(Check([](auto) {}), "");
  EXPECT_EQ(Check([](auto) {}, {.memory_bytes = 512 * kMiB, .cpus = 32}), "");
}

TEST(ArrivalLimitsTest, OneMoreOfAnythingIsRefusedInWords) {
  EXPECT_EQ(Check([](auto machine) { machine.initDisks(17); }),
            "the machine has 17 disks, a machine here has at most 16");
  EXPECT_THAT(Check([](auto machine) { machine.setCpus(33); }), HasSubstr("33 vCPUs"));
  EXPECT_THAT(Check([](auto machine) { machine.initDevices(21); }), HasSubstr("21 devices"));
  EXPECT_THAT(Check([](auto machine) { machine.initCpuid(257); }), HasSubstr("257 CPUID leaves"));
  EXPECT_THAT(Check([](auto machine) { machine.getBoot().setCommandLine(std::string(2048, 'x')); }),
              HasSubstr("2048 bytes of kernel command line"));
}

TEST(ArrivalLimitsTest, OnesOfTheUserAreNamed) {
  EXPECT_EQ(Check([](auto) {}, {.memory_bytes = 511 * kMiB}),
            "the machine has 512M of memory, `ferrite receive --max-mem` allows 511M");
  EXPECT_EQ(Check([](auto) {}, {.cpus = 31}), "the machine has 32 vCPUs, `ferrite receive --max-cpus` allows 31");
}

}  // namespace
}  // namespace ferrite
