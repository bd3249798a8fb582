#include "vmm/control/kept_logs.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tests/fakes/run_base_rig.h"
#include "vmm/control/machine_finder.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

using KeptLogsTest = RunBaseTest;

TEST_F(KeptLogsTest, AKeptLogIsNamedUntilTheNextMachineOfItsName) {
  const std::string kept = base_ + "/vm.failed.log";
  for (const char* text : {"first", "second"}) {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_FALSE(fs::exists(kept));
    std::ofstream((*dir)->log_path()) << text;
    (*dir)->KeepLog();
    dir->reset();
    EXPECT_FALSE(fs::exists(base_ + "/vm"));
    std::string found;
    std::ifstream(kept) >> found;
    EXPECT_EQ(found, text);
    const absl::Status status = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), kept)) << status;
    EXPECT_TRUE(ListMachines(base_)->empty());
  }
  auto dir = RunDir::Create(base_, "vm");
  ASSERT_TRUE(dir.ok()) << dir.status();
  (*dir)->KeepLog();  // there is none
  dir->reset();
  EXPECT_TRUE(fs::is_empty(base_));
}

// Where something is in the way that is not ours to replace.
TEST_F(KeptLogsTest, ALogIsKeptAlsoWhereItsNameIsTaken) {
  ASSERT_TRUE(fs::create_directories(base_ + "/vm.failed.log"));
  // Of other machines.
  for (const char* other : {"/vm.failed.3.failed.log", "/vm.failed.x.log", "/other.failed.5.log"}) {
    std::ofstream(base_ + other) << "other";
  }
  for (const char* text : {"first", "second"}) {
    auto dir = RunDir::Create(base_, "vm");
    ASSERT_TRUE(dir.ok()) << dir.status();
    EXPECT_EQ(std::distance(fs::directory_iterator(base_), fs::directory_iterator()), 5)
        << "but for the log of the one before";
    std::ofstream((*dir)->log_path()) << text;
    (*dir)->KeepLog();
    dir->reset();
    const absl::Status status = FindMachine(base_, "vm").status();
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    const std::string intro = "the last one failed, its log is ";
    const size_t at = status.message().find(intro);
    ASSERT_NE(at, absl::string_view::npos) << status;
    std::string found;
    std::ifstream(std::string(status.message().substr(at + intro.size()))) >> found;
    EXPECT_EQ(found, text) << status;
  }
}

}  // namespace
}  // namespace ferrite
