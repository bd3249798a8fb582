#include "vmm/move/mover.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "tests/fakes/scarcity.h"
#include "vmm/base/fd.h"
#include "vmm/control/fake_machine.h"

namespace ferrite {
namespace {

// A signal that asks for the end waits for one move at the most: clients begin no other meanwhile.
TEST(MoverTest, NoMoveBeginsAtTheEnd) {
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20});
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  mover.BeginEnd();
  EXPECT_EQ(mover.Start("unix:/nowhere", {}), absl::UnavailableError("this machine is ending"));
  EXPECT_EQ(mover.status().number, 0u);
  mover.Wait();
}

TEST(MoverTest, BalloonMayBeSetWhileNothingIsLostByIt) {
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20});
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  EXPECT_TRUE(mover.Allows(kSetBalloon, /*force=*/false).ok());
  ASSERT_TRUE(mover.Start("unix:/nowhere", {}).ok());
  EXPECT_TRUE(mover.Allows(kSetBalloon, /*force=*/false).ok()) << "the target goes with the machine";
  mover.Wait();
  EXPECT_TRUE(mover.Allows(kSetBalloon, /*force=*/false).ok());
}

// R3: the mover can move again, and whatever else is refused while a move is on is not.
TEST(MoverTest, MoveWhoseThreadCannotBeMadeChangesNothing) {
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20});
  auto directory = OpenFile(testing::TempDir(), O_RDONLY | O_DIRECTORY);
  ASSERT_TRUE(directory.ok()) << directory.status();
  Mover mover(machine, *std::move(directory), "", nullptr);
  {
    const Scarcity scarcity(Scarce::kThreads, 1);
    const absl::Status status = mover.Start("unix:/nowhere", {});
    EXPECT_TRUE(absl::StartsWith(status.message(), "cannot move: make the thread move: ")) << status;
  }
  EXPECT_EQ(mover.status().number, 0u);
  EXPECT_TRUE(mover.Allows("pause", /*force=*/false).ok());
  EXPECT_FALSE(mover.MustWait());
  mover.Wait();
  // Without the thread that tells of its progress it goes on.
  const Scarcity scarcity(Scarce::kThreads, 2);
  EXPECT_TRUE(mover.Start("unix:/nowhere", {.connect_limit = absl::Milliseconds(1)}).ok());
  mover.Wait();
  EXPECT_EQ(scarcity.refused(), 1u);
  EXPECT_EQ(mover.status().number, 1u);
  EXPECT_TRUE(mover.status().over);
  EXPECT_EQ(mover.status().guest, GuestPlace::kHereRunning);
}

}  // namespace
}  // namespace ferrite
