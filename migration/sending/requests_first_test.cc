#include "migration/sending/requests_first.h"

#include <gtest/gtest.h>

#include <memory>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

class RequestsFirstTest : public testing::Test {
 protected:
  Thread StartLettingPass() {
    Thread bulk = StartOrDie("test-bulk", [this] { first_.LetPass(clock_); });
    EXPECT_TRUE(clock_.AwaitWaiting(1));
    return bulk;
  }

  FakeClock clock_;
  const MonotonicTime start_ = clock_.Now();
  RequestsFirst first_;
};

TEST_F(RequestsFirstTest, BulkDoesNotWaitWhenNobodyAsks) {
  first_.LetPass(clock_);
  { const RequestsFirst::Answering answering(first_); }
  first_.LetPass(clock_);
}

TEST_F(RequestsFirstTest, BulkGoesOnWhenAllAreAnswered) {
  auto one = std::make_unique<RequestsFirst::Answering>(first_);
  auto other = std::make_unique<RequestsFirst::Answering>(first_);
  Thread bulk = StartLettingPass();
  one.reset();
  EXPECT_EQ(clock_.waiting(), 1u);
  other.reset();
  bulk.Join();
  EXPECT_EQ(clock_.Now(), start_);
}

TEST_F(RequestsFirstTest, BulkDoesNotStarve) {
  const RequestsFirst::Answering answering(first_);
  for (int claim = 0; claim < 3; ++claim) {
    Thread bulk = StartLettingPass();
    clock_.Advance(RequestsFirst::kMost - absl::Nanoseconds(1));
    EXPECT_TRUE(clock_.AwaitWaiting(1));
    clock_.Advance(absl::Nanoseconds(1));
    bulk.Join();
  }
}

}  // namespace
}  // namespace ferrite::migration
