#include "bench/where.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ferrite {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(WhereTest, AFileThatIsNotTheKvmDeviceIsNoKvm) {
  EXPECT_THAT(std::string(KvmIsHere("/dev/null").message()), HasSubstr("/dev/null is not KVM"));
}

TEST(WhereTest, SaysWhatIsWrongWithADeviceThatIsNotThere) {
  const absl::Status status = KvmIsHere("/dev/no-such-kvm");
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/dev/no-such-kvm"));
}

TEST(WhereTest, NamesProcessorsAndKernelAndKvmWhereItIsNeeded) {
  for (const Needs needs : {Needs::kNothing, Needs::kKvm}) {
    EXPECT_THAT(WhereItRuns(needs), HasSubstr(" processors ("));
    EXPECT_THAT(WhereItRuns(needs), HasSubstr("Linux "));
  }
  EXPECT_THAT(WhereItRuns(Needs::kNothing), HasSubstr("no KVM needed"));
  EXPECT_THAT(WhereItRuns(Needs::kKvm), HasSubstr("KVM "));
  EXPECT_THAT(WhereItRuns(Needs::kKvm), Not(HasSubstr("needed")));
}

}  // namespace
}  // namespace ferrite
