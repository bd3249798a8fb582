#include "vmm/control/handed_over.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "tests/fakes/run_base_rig.h"
#include "vmm/control/grant_record.h"
#include "vmm/control/machine_finder.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

using HandedOverTest = RunBaseTest;

// R2: a name of a guest that may run elsewhere is not used again before somebody says so.
TEST_F(HandedOverTest, KilledMachineThatWasHandedOverStaysUntilItIsForgotten) {
  LeaveStale("vm", "tcp:there:4000");
  LeaveStale("dead");
  std::ofstream(base_ + "/dead/grant.new") << "move";
  for (int i = 0; i < 2; ++i) {
    const auto list = ListMachines(base_);
    ASSERT_TRUE(list.ok()) << list.status();
    ASSERT_EQ(list->size(), 1u);
    EXPECT_EQ(list->front().name, "vm");
    ASSERT_TRUE(list->front().handed_over.has_value());
    EXPECT_EQ(list->front().handed_over->where, "tcp:there:4000");
    EXPECT_EQ(list->front().handed_over->epoch, 7u);
    EXPECT_FALSE(fs::exists(base_ + "/dead")) << "a record that was not finished was not sent either";
    const absl::Status again = RunDir::Create(base_, "vm").status();
    EXPECT_TRUE(absl::IsFailedPrecondition(again)) << again;
    const absl::Status found = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(found)) << found;
    for (const absl::Status& status : {again, found}) {
      for (const char* words : {"is gone", "handed over to tcp:there:4000 (epoch 7)", "is lost", "stop vm --force"}) {
        EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
      }
    }
  }
  EXPECT_TRUE(fs::exists(base_ + "/vm/ferrite.log"));
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "dead")));
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
  EXPECT_TRUE(fs::is_empty(base_));
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "vm")));
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
}

TEST_F(HandedOverTest, LivingMachineThatIsBeingHandedOverIsNotForgotten) {
  auto dir = RunDir::Create(base_, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  ASSERT_TRUE(WriteGrantRecord((*dir)->directory(), {}, 1, "unix:/there").ok());
  EXPECT_TRUE(absl::IsNotFound(ForgetHandedOver(base_, "vm")));
  const auto found = FindMachine(base_, "vm");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->handed_over.has_value());
  dir->reset();
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(HandedOverTest, RecordThatCannotBeReadCountsAsOne) {
  LeaveStale("vm", "tcp:there:4000");
  std::ofstream(base_ + "/vm/grant") << "epoch";
  EXPECT_TRUE(absl::IsFailedPrecondition(RunDir::Create(base_, "vm").status()));
  const auto list = ListMachines(base_);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->size(), 1u);
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
}

TEST_F(HandedOverTest, RecordIsShownInCleanWords) {
  LeaveStale("vm", "tcp:\x1b[2Jthere:4000");
  const auto grant = HandedOver(base_, "vm");
  ASSERT_TRUE(grant.has_value());
  EXPECT_EQ(grant->where, "tcp:?[2Jthere:4000");
  EXPECT_TRUE(ForgetHandedOver(base_, "vm").ok());
}

}  // namespace
}  // namespace ferrite
