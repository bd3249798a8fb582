#include "vmm/control/move_rpc.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "migration/api/move_state.h"

namespace ferrite {
namespace {

using migration::MoveState;

TEST(MoveRpcTest, EveryStateIsReadAsItWasTold) {
  int states = 0;
  for (; migration::MoveStateName(static_cast<MoveState>(states)) != "unknown"; ++states) {
    MoveStatus move;
    move.progress.state = static_cast<MoveState>(states);
    capnp::MallocMessageBuilder message;
    const auto told = message.initRoot<control::Move>();
    FillMove(move, told);
    EXPECT_EQ(ReadMove(told.asReader()).progress.state, move.progress.state)
        << migration::MoveStateName(move.progress.state);
  }
  EXPECT_EQ(states, static_cast<int>(MoveState::kCancelled) + 1);
}

TEST(MoveRpcTest, StateThatIsNotKnownHereIsNone) {
  capnp::MallocMessageBuilder message;
  auto told = message.initRoot<control::Move>();
  EXPECT_EQ(ReadMove(told.asReader()).progress.state, MoveState::kNone);
  told.setState("thinking");
  EXPECT_EQ(ReadMove(told.asReader()).progress.state, MoveState::kNone);
}

}  // namespace
}  // namespace ferrite
