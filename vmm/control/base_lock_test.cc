#include "vmm/control/base_lock.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/run_base_rig.h"
#include "tests/fakes/test_thread.h"
#include "vmm/control/machine_finder.h"
#include "vmm/control/run_dir.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

using BaseLockTest = RunBaseTest;

// Whoever can read a directory can lock it.
TEST_F(BaseLockTest, LockOfTheBaseItselfHoldsUpNobody) {
  LeaveStale("dead");
  const Fd holder(open(base_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  const MonotonicTime before = MonotonicTime::Now();
  EXPECT_TRUE(RunDir::Create(base_, "vm").ok());
  EXPECT_TRUE(ListMachines(base_).ok());
  EXPECT_LT(MonotonicTime::Now() - before, absl::Seconds(5));
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(BaseLockTest, LockThatAProcessOfOursKeepsIsNamed) {
  const std::string path = absl::StrCat(base_, "/.lock.", geteuid());
  const Fd holder(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(flock(holder.get(), LOCK_EX), 0);
  EXPECT_TRUE(ListMachines(base_).ok()) << "there is nothing to change";
  const absl::Status status = RunDir::Create(base_, "vm").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
}

TEST_F(BaseLockTest, LockThatOthersCouldHoldIsRefused) {
  const std::string path = absl::StrCat(base_, "/.lock.", geteuid());
  std::ofstream(path).close();
  ASSERT_EQ(chmod(path.c_str(), 0644), 0);
  const absl::Status status = RunDir::Create(base_, "vm").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
}

TEST_F(BaseLockTest, BaseThatComesAndGoesNeverFailsAStart) {
  constexpr int kThreads = 3;
  constexpr int kRounds = 100;
  const std::string base = base_ + "/x/run";
  std::vector<Thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(StartOrDie("starter", [&, name = absl::StrCat("vm", i)] {
      for (int round = 0; round < kRounds; ++round) {
        auto dir = RunDir::Create(base, name);
        ASSERT_TRUE(dir.ok()) << dir.status();
        EXPECT_TRUE(fs::exists((*dir)->path() + "/ferrite.pid"));
        EXPECT_TRUE(ListMachines(base).ok());
      }
    }));
  }
}

TEST_F(BaseLockTest, OneOfManyStartersWinsAndListingDisturbsNobody) {
  LeaveStale("vm");
  constexpr int kThreads = 8;
  constexpr int kRounds = 50;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<int> winners = 0;
    std::atomic<int> done = 0;
    std::vector<Thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.push_back(StartOrDie("starter", [&] {
        auto dir = RunDir::Create(base_, "vm");
        winners += dir.ok() ? 1 : 0;
        EXPECT_TRUE(dir.ok() || absl::IsAlreadyExists(dir.status())) << dir.status();
        (void)ListMachines(base_);
        // Nobody lets go before everybody tried.
        ++done;
        while (done < kThreads) {
          std::this_thread::yield();
        }
      }));
    }
    threads.clear();
    EXPECT_EQ(winners, 1);
  }
  EXPECT_TRUE(fs::is_empty(base_));
}

TEST_F(BaseLockTest, StartAndEndInTurnNeverFindsAnotherError) {
  constexpr int kThreads = 4;
  constexpr int kRounds = 200;
  std::atomic<int> winners = 0;
  std::vector<Thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.push_back(StartOrDie("starter", [&] {
      for (int round = 0; round < kRounds; ++round) {
        auto dir = RunDir::Create(base_, "vm");
        EXPECT_TRUE(dir.ok() || absl::IsAlreadyExists(dir.status())) << dir.status();
        if (dir.ok()) {
          ++winners;
          EXPECT_TRUE((*dir)->ListenOnControlSocket().ok());
        }
      }
    }));
  }
  threads.clear();
  EXPECT_GT(winners, 0);
  EXPECT_TRUE(fs::is_empty(base_));
}

}  // namespace
}  // namespace ferrite
