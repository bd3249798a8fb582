#include "vmm/control/machine_finder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fakes/run_base_rig.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

using MachineFinderTest = RunBaseTest;

TEST_F(MachineFinderTest, ListingRemovesWhatKilledMachinesLeftAndNothingElse) {
  LeaveStale("dead");
  LeaveStale("dead-with-notes");
  std::ofstream(base_ + "/dead-with-notes/notes") << "mine";
  fs::create_directory(base_ + "/unrelated");
  std::ofstream(base_ + "/unrelated/ferrite.log") << "mine";
  std::ofstream(base_ + "/file") << "mine";
  auto alive = RunDir::Create(base_, "alive");
  ASSERT_TRUE(alive.ok()) << alive.status();
  auto list = ListMachines(base_);
  ASSERT_TRUE(list.ok()) << list.status();
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(list->front().name, "alive");
  EXPECT_EQ(list->front().pid, getpid());
  EXPECT_FALSE(fs::exists(base_ + "/dead"));
  EXPECT_TRUE(fs::exists(base_ + "/dead-with-notes/notes"));
  EXPECT_TRUE(fs::exists(base_ + "/unrelated/ferrite.log"));
  EXPECT_TRUE(fs::exists(base_ + "/file"));
}

TEST_F(MachineFinderTest, ListingFollowsNoSymbolicLink) {
  const std::string victim = base_ + "/victim";
  const std::string base = base_ + "/run";
  fs::create_directory(victim);
  fs::create_directory(base);
  std::ofstream(victim + "/ferrite.pid") << "1";
  std::ofstream(victim + "/ferrite.log") << "theirs";
  fs::create_directory_symlink("../victim", base + "/link");
  auto list = ListMachines(base);
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->empty());
  EXPECT_TRUE(fs::exists(victim + "/ferrite.pid"));
  EXPECT_TRUE(fs::exists(victim + "/ferrite.log"));
  EXPECT_TRUE(fs::is_symlink(base + "/link"));
}

TEST_F(MachineFinderTest, BaseThatIsNotThereHoldsNoMachine) {
  auto list = ListMachines(base_ + "/none");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_TRUE(list->empty());
}

}  // namespace
}  // namespace ferrite
