// Whole moves of a real machine on a host that has no room for one more thread, at each of the places where one is
// made: the guest runs on at one side, and moves when there is room again (R2, R3). tests/migration/scarcity_test.cc
// has the same of the engine alone, and of descriptors and memory.
#include "tests/fakes/scarcity.h"

#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/fakes/test_place.h"
#include "tests/integration/moving_payload.h"

namespace ferrite {
namespace {

using migration::MoveMode;
using migration::MoveState;

class MachineScarcityTest : public testing::TestWithParam<MoveMode> {};

TEST_P(MachineScarcityTest, GuestRunsOnWhicheverThreadCannotBeMade) {
  MachineConfig config;
  config.memory_bytes = uint64_t{32} << 20;
  config.cpus = 2;
  config.command_line = "mode=step set=2M report_ms=5";
  auto made = MovingPayload::Run("dirty", config);
  ASSERT_TRUE(made.ok()) << made.status();
  MovingPayload& moving = **made;
  const auto filled = moving.here().WaitFor("filled");
  ASSERT_TRUE(filled.ok()) << filled.status();
  uint64_t refused = 1;
  int failed = 0;
  for (uint64_t nth = 1; refused > 0; nth += ForPlace(1, 6)) {
    SCOPED_TRACE(absl::StrCat(nth, ". refused"));
    std::unique_ptr<Scarcity> scarcity;
    const MoveResult result = moving.Move(
        {.options = {.mode = GetParam()}, .during = [&](migration::Source&, const migration::MoveProgress&) {
           const Plenty plenty;
           if (scarcity == nullptr) {
             scarcity = std::make_unique<Scarcity>(Scarce::kThreads, nth);
           }
         }});
    scarcity->End();
    refused = scarcity->refused();
    ASSERT_EQ(moving.here().machine().state(), MachineState::kRunning) << result.source << "; " << result.destination;
    if (!result.source.ok()) {
      ++failed;
      EXPECT_EQ(result.source_state, MoveState::kFailed) << "R3: " << result.source;
      EXPECT_TRUE(absl::StrContains(result.source.message(), "make the thread ")) << result.source;
      const MoveResult second = moving.Move({.options = {.mode = GetParam()}});
      ASSERT_TRUE(second.source.ok()) << second.source;
      ASSERT_TRUE(second.destination.ok()) << second.destination;
    } else {
      EXPECT_TRUE(result.destination.ok()) << result.destination;
    }
    const auto check = moving.here().Check();
    ASSERT_TRUE(check.ok()) << check.status();
    ASSERT_LT(nth, 100u) << "threads are made that nobody needs";
  }
  EXPECT_GE(failed, ForPlace(8, 2));
}

INSTANTIATE_TEST_SUITE_P(Modes, MachineScarcityTest, testing::Values(MoveMode::kPrecopy, MoveMode::kPostcopy),
                         [](const testing::TestParamInfo<MoveMode>& info) {
                           return info.param == MoveMode::kPostcopy ? "Postcopy" : "Precopy";
                         });

}  // namespace
}  // namespace ferrite
