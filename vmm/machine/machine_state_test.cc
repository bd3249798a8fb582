#include "vmm/machine/machine_state.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace ferrite {
namespace {

using enum MachineState;

TEST(MachineStateTest, OnlyTheseChangesExist) {
  constexpr MachineState kAll[] = {kCreated, kPaused, kRunning, kStopped};
  const std::set<std::pair<MachineState, MachineState>> allowed = {{kCreated, kPaused}, {kPaused, kRunning},
                                                                   {kRunning, kPaused}, {kCreated, kStopped},
                                                                   {kPaused, kStopped}, {kRunning, kStopped}};
  for (const MachineState from : kAll) {
    for (const MachineState to : kAll) {
      EXPECT_EQ(MachineStateMayChange(from, to), allowed.count({from, to}) == 1)
          << MachineStateName(from) << " to " << MachineStateName(to);
    }
  }
}

TEST(MachineStateTest, EveryNameIsItsOwn) {
  std::set<std::string> names;
  for (const MachineState state : {kCreated, kPaused, kRunning, kStopped}) {
    EXPECT_TRUE(names.insert(std::string(MachineStateName(state))).second);
  }
  for (const StopReason reason : {StopReason::kPowerOff, StopReason::kReset, StopReason::kRequested,
                                  StopReason::kGuestFault, StopReason::kError}) {
    EXPECT_TRUE(names.insert(std::string(StopReasonName(reason))).second);
  }
}

}  // namespace
}  // namespace ferrite
