#include "migration/placing/round_gate.h"

#include <gtest/gtest.h>

#include <atomic>

#include "base/thread.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

TEST(RoundGateTest, NobodyGoesOnBeforeAllHaveArrivedAndItWasOpened) {
  RoundGate gate(2);
  std::atomic<int> passed = 0;
  Thread first = StartOrDie("first", [&] {
    const auto next = gate.Arrive(1);
    EXPECT_TRUE(next.ok() && *next == RoundGate::Next::kRound);
    ++passed;
    EXPECT_TRUE(*gate.Arrive(2) == RoundGate::Next::kLive);
    ++passed;
  });
  Thread second = StartOrDie("second", [&] {
    EXPECT_TRUE(gate.Arrive(1).ok());
    ++passed;
    EXPECT_TRUE(*gate.Arrive(2) == RoundGate::Next::kLive);
    ++passed;
  });
  ASSERT_TRUE(gate.AwaitAll(1).ok());
  EXPECT_EQ(passed, 0);
  gate.Open(RoundGate::Next::kRound);
  ASSERT_TRUE(gate.AwaitAll(2).ok());
  EXPECT_EQ(passed, 2);
  gate.Open(RoundGate::Next::kLive);
  first.Join();
  second.Join();
  EXPECT_EQ(passed, 4);
}

TEST(RoundGateTest, RefusesRoundsOutOfOrderAndEndsWithAFailure) {
  RoundGate gate(1);
  EXPECT_FALSE(gate.Arrive(2).ok());
  EXPECT_FALSE(gate.AwaitAll(0).ok());
  Thread waiting = StartOrDie("waiting", [&] { EXPECT_EQ(gate.AwaitAll(1).code(), absl::StatusCode::kUnavailable); });
  gate.Fail(absl::UnavailableError("gone"));
  waiting.Join();
  EXPECT_EQ(gate.Arrive(1).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace ferrite::migration
