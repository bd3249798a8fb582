#include "vmm/kvm/capabilities.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "vmm/kvm/kvm_abi.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(KvmCapabilitiesTest, EveryRowSaysWhatIsLostAndHowToGetIt) {
  const KvmCapabilities capabilities([](int) { return 1; });
  std::set<int> numbers;
  for (const KvmCapability& row : capabilities.rows()) {
    EXPECT_THAT(row.name, testing::StartsWith("KVM_CAP_"));
    EXPECT_NE(std::string(row.lost), "") << row.name;
    EXPECT_NE(std::string(row.how_to_get), "") << row.name;
    EXPECT_TRUE(numbers.insert(row.number).second) << row.name << " is there twice";
  }
  EXPECT_TRUE(capabilities.CheckRequired().ok());
}

TEST(KvmCapabilitiesTest, MissingRequiredOnesAreNamedAndOptionalOnesAreNot) {
  const KvmCapabilities capabilities([](int number) {
    return number == KVM_CAP_IRQFD || number == KVM_CAP_IMMEDIATE_EXIT || number == KVM_CAP_XSAVE2 ? 0 : 7;
  });
  const absl::Status status = capabilities.CheckRequired();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("KVM_CAP_IRQFD"));
  EXPECT_THAT(message, HasSubstr("KVM_CAP_IMMEDIATE_EXIT"));
  EXPECT_THAT(message, HasSubstr("4.13"));
  EXPECT_THAT(message, Not(HasSubstr("KVM_CAP_XSAVE2")));
  EXPECT_FALSE(capabilities.has(KVM_CAP_XSAVE2));
  EXPECT_EQ(capabilities.value(KVM_CAP_MAX_VCPUS), 7);
}

TEST(KvmCapabilitiesTest, AnErrorOfTheKernelCountsAsMissing) {
  const KvmCapabilities capabilities([](int) { return -1; });
  EXPECT_EQ(capabilities.value(KVM_CAP_IRQCHIP), 0);
  EXPECT_FALSE(capabilities.CheckRequired().ok());
}

}  // namespace
}  // namespace ferrite
