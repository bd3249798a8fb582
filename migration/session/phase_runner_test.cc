#include "migration/session/phase_runner.h"

#include <new>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_clock.h"

namespace ferrite::migration {
namespace {

class PhaseRunnerTest : public ::testing::Test {
 protected:
  MoveStateMachine state_;
  std::vector<MoveState> told_;
  PhaseRunner phases_{state_, [this] { told_.push_back(state_.get()); }};
};

TEST_F(PhaseRunnerTest, ChangesTheStateAndTellsOfItBeforeThePhase) {
  const absl::Status status = phases_.Run({"setup", MoveState::kNone, MoveState::kSetup}, [&] {
    EXPECT_EQ(told_, std::vector<MoveState>({MoveState::kSetup}));
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(state_.get(), MoveState::kSetup);
}

TEST_F(PhaseRunnerTest, PhaseOfTheSameStateTellsNothing) {
  EXPECT_TRUE(phases_.Run({"setup", MoveState::kNone, MoveState::kNone}, [] { return absl::OkStatus(); }).ok());
  EXPECT_TRUE(told_.empty());
}

TEST_F(PhaseRunnerTest, PhaseDoesNotBeginWhenSomebodyElseChangedTheState) {
  ASSERT_TRUE(state_.Change(MoveState::kNone, MoveState::kCancelled));
  const absl::Status status = phases_.Run({"setup", MoveState::kNone, MoveState::kSetup}, [] {
    ADD_FAILURE();
    return absl::OkStatus();
  });
  EXPECT_EQ(status, absl::CancelledError("cancelled"));
  EXPECT_TRUE(told_.empty());
}

TEST_F(PhaseRunnerTest, ErrorNamesThePhase) {
  EXPECT_EQ(phases_.Run({"setup", MoveState::kNone, MoveState::kSetup}, [] { return absl::UnavailableError("lost"); }),
            absl::UnavailableError("setup: lost"));
}

TEST_F(PhaseRunnerTest, WantOfMemoryIsAnError) {
  const absl::Status status =
      phases_.Run({"setup", MoveState::kNone, MoveState::kSetup}, []() -> absl::Status { throw std::bad_alloc(); });
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST(TimedTest, SaysHowLongItTookAlsoWhenItFailed) {
  FakeClock clock;
  absl::Duration took;
  const auto body = [&] {
    clock.Advance(absl::Minutes(3));
    return absl::AbortedError("no");
  };
  EXPECT_EQ(Timed(clock, took, body), absl::AbortedError("no"));
  EXPECT_EQ(took, absl::Minutes(3));
}

}  // namespace
}  // namespace ferrite::migration
