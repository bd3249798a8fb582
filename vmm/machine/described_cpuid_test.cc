#include "vmm/machine/described_cpuid.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <vector>

namespace ferrite {
namespace {

TEST(DescribedCpuidTest, LeavesComeBackAsTheyWereInTheirOrder) {
  const std::vector<kvm_cpuid_entry2> leaves = {
      {.function = 0x8000'0001, .index = 2, .flags = 3, .eax = 4, .ebx = 5, .ecx = 6, .edx = 7},
      {.function = 0xd, .index = 0xffff'ffff, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = ~0u, .edx = 1}};
  capnp::MallocMessageBuilder message;
  auto description = message.initRoot<state::MachineDescription>();
  DescribeCpuid(leaves, description);
  const std::vector<kvm_cpuid_entry2> read = ReadCpuid(description.asReader());
  ASSERT_EQ(read.size(), leaves.size());
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_EQ(read[i].function, leaves[i].function) << i;
    EXPECT_EQ(read[i].index, leaves[i].index) << i;
    EXPECT_EQ(read[i].flags, leaves[i].flags) << i;
    EXPECT_EQ(read[i].eax, leaves[i].eax) << i;
    EXPECT_EQ(read[i].ebx, leaves[i].ebx) << i;
    EXPECT_EQ(read[i].ecx, leaves[i].ecx) << i;
    EXPECT_EQ(read[i].edx, leaves[i].edx) << i;
  }
  DescribeCpuid({}, description);
  EXPECT_TRUE(ReadCpuid(description.asReader()).empty());
}

}  // namespace
}  // namespace ferrite
