#include "base/cancel_token.h"

#include <poll.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "gtest/gtest.h"
#include "tests/fakes/test_thread.h"

namespace ferrite {
namespace {

bool IsReadable(const CancelToken& token) {
  pollfd polled{.fd = token.event().fd(), .events = POLLIN, .revents = 0};
  return poll(&polled, 1, 0) == 1;
}

class CancelTokenTest : public ::testing::Test {
 protected:
  CancelToken token_ = *CancelToken::Create();
};

TEST_F(CancelTokenTest, IsNotCancelledAtFirst) {
  EXPECT_FALSE(token_.cancelled());
  EXPECT_TRUE(token_.reason().ok());
  EXPECT_FALSE(IsReadable(token_));
  EXPECT_FALSE(token_.WaitFor(RealClock(), absl::ZeroDuration()));
}

TEST_F(CancelTokenTest, TheFirstReasonCounts) {
  token_.Cancel(absl::UnavailableError("the connection is lost"));
  token_.Cancel(absl::CancelledError("cancelled"));
  EXPECT_TRUE(token_.cancelled());
  EXPECT_EQ(token_.reason(), absl::UnavailableError("the connection is lost"));
  EXPECT_TRUE(token_.WaitFor(RealClock(), absl::ZeroDuration()));
}

TEST_F(CancelTokenTest, StaysReadableForAllThatPoll) {
  token_.Cancel(absl::CancelledError("cancelled"));
  EXPECT_TRUE(IsReadable(token_));
  EXPECT_TRUE(IsReadable(token_)) << "nobody drains it by looking";
}

TEST_F(CancelTokenTest, RenewForgetsWhatWasCancelled) {
  token_.Cancel(absl::CancelledError("the first connection"));
  token_.Renew();
  EXPECT_FALSE(token_.cancelled());
  EXPECT_FALSE(IsReadable(token_));
  EXPECT_TRUE(token_.reason().ok());
  token_.Cancel(absl::CancelledError("the second connection"));
  EXPECT_EQ(token_.reason().message(), "the second connection");
  EXPECT_TRUE(IsReadable(token_));
}

TEST_F(CancelTokenTest, CallbacksRunOnceInTheirOrder) {
  std::vector<std::string> calls;
  const CancelToken::Callback first(
      token_, [&](const absl::Status& reason) { calls.push_back("first: " + std::string(reason.message())); });
  const CancelToken::Callback second(token_, [&](const absl::Status&) { calls.emplace_back("second"); });
  EXPECT_TRUE(calls.empty());
  token_.Cancel(absl::CancelledError("why"));
  token_.Cancel(absl::CancelledError("again"));
  EXPECT_EQ(calls, std::vector<std::string>({"first: why", "second"}));
  token_.Renew();
  token_.Cancel(absl::CancelledError("a new generation"));
  EXPECT_EQ(calls.size(), 2) << "they belong to the generation in which they ran";
}

TEST_F(CancelTokenTest, CallbackOfWhatIsCancelledAlreadyRunsAtOnce) {
  token_.Cancel(absl::CancelledError("why"));
  std::string said;
  const CancelToken::Callback late(token_, [&](const absl::Status& reason) { said = std::string(reason.message()); });
  EXPECT_EQ(said, "why");
}

TEST_F(CancelTokenTest, CallbackThatEndedDoesNotRun) {
  bool ran = false;
  {
    const CancelToken::Callback gone(token_, [&](const absl::Status&) { ran = true; });
  }
  token_.Cancel(absl::CancelledError("why"));
  EXPECT_FALSE(ran);
}

TEST_F(CancelTokenTest, CallbacksEndInAnyOrder) {
  std::vector<std::string> calls;
  std::optional<CancelToken::Callback> callbacks[4];
  const auto make = [&](int i) {
    callbacks[i].emplace(token_, [&, i](const absl::Status&) { calls.push_back(std::to_string(i)); });
  };
  for (int i = 0; i < 4; ++i) {
    make(i);
  }
  callbacks[1].reset();
  callbacks[3].reset();
  make(1);
  callbacks[0].reset();
  token_.Cancel(absl::CancelledError("why"));
  EXPECT_EQ(calls, std::vector<std::string>({"2", "1"}));
}

TEST_F(CancelTokenTest, CallbackMayEndInItsOwnCall) {
  std::optional<CancelToken::Callback> callback;
  bool ran = false;
  callback.emplace(token_, [&](const absl::Status&) {
    ran = true;
    callback.reset();
  });
  token_.Cancel(absl::CancelledError("why"));
  EXPECT_TRUE(ran);
}

TEST_F(CancelTokenTest, CallbackMayAskItsTokenAndCancelAnother) {
  CancelToken other = *CancelToken::Create();
  const CancelToken::Callback link(token_, [&](const absl::Status& reason) {
    EXPECT_TRUE(token_.cancelled());
    EXPECT_EQ(token_.reason(), reason);
    other.Cancel(reason);
  });
  token_.Cancel(absl::CancelledError("why"));
  EXPECT_EQ(other.reason().message(), "why");
}

TEST_F(CancelTokenTest, EndOfACallbackWaitsForItsCall) {
  TimedNotification inside;
  TimedNotification go_on;
  std::atomic<bool> returned{false};
  auto callback = std::make_unique<CancelToken::Callback>(token_, [&](const absl::Status&) {
    inside.Notify();
    EXPECT_TRUE(go_on.WaitFor(absl::Seconds(30)));
    returned = true;
  });
  Thread canceller = StartOrDie("test-cancel", [&] { token_.Cancel(absl::CancelledError("why")); });
  ASSERT_TRUE(inside.WaitFor(absl::Seconds(30)));
  Thread waker = StartOrDie("test-wake", [&] { go_on.Notify(); });
  callback.reset();
  EXPECT_TRUE(returned);
}

TEST_F(CancelTokenTest, WakesWhoWaits) {
  Thread canceller = StartOrDie("test-cancel", [&] { token_.Cancel(absl::CancelledError("why")); });
  EXPECT_TRUE(token_.WaitFor(RealClock(), absl::Seconds(30)));
}

// For the thread sanitizer: all that may happen at once does.
TEST_F(CancelTokenTest, CancelRacesWithCallbacksThatComeAndGo) {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> calls{0};
    {
      Thread canceller = StartOrDie("test-cancel", [&] { token_.Cancel(absl::CancelledError("why")); });
      for (int i = 0; i < 8; ++i) {
        const CancelToken::Callback callback(token_, [&](const absl::Status&) { ++calls; });
      }
      const CancelToken::Callback last(token_, [&](const absl::Status&) { ++calls; });
      canceller.Join();
    }
    EXPECT_GE(calls, 1);
    token_.Renew();
  }
}

}  // namespace
}  // namespace ferrite
