#include "vmm/move/mover.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "vmm/control/fake_machine.h"

namespace ferrite {
namespace {

// A signal that asks for the end waits for one move at the most: clients begin no other meanwhile.
TEST(MoverTest, NoMoveBeginsAtTheEnd) {
  FakeMachine machine({.name = "vm", .memory_bytes = 1 << 20});
  Mover mover(machine, testing::TempDir(), "", nullptr);
  mover.BeginEnd();
  EXPECT_EQ(mover.Start("unix:/nowhere", {}), absl::UnavailableError("this machine is ending"));
  EXPECT_EQ(mover.status().number, 0u);
  mover.Wait();
}

}  // namespace
}  // namespace ferrite
