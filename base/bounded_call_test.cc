#include "base/bounded_call.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

TEST(BoundedCallTest, ReturnsWhatItDid) {
  bool is_late = false;
  int done = 0;
  const auto late = [&] { is_late = true; };
  const auto work = [&] {
    ++done;
    return absl::NotFoundError("no such host");
  };
  EXPECT_EQ(RunBounded("call", kPatience, work, late), absl::NotFoundError("no such host"));
  EXPECT_EQ(done, 1);
  EXPECT_FALSE(is_late);
}

TEST(BoundedCallTest, IsNotWaitedForBeyondTheLimit) {
  struct Shared {
    TimedNotification go_on;
    TimedNotification late;
    bool done = false;
  };
  const auto shared = std::make_shared<Shared>();
  const auto result = RunBounded(
      "look-up", absl::Milliseconds(10),
      [shared] {
        EXPECT_TRUE(shared->go_on.WaitFor(kPatience));
        shared->done = true;
        return absl::OkStatus();
      },
      [shared] {
        EXPECT_TRUE(shared->done);
        shared->late.Notify();
      });
  EXPECT_EQ(result, std::nullopt);
  shared->go_on.Notify();
  EXPECT_TRUE(shared->late.WaitFor(kPatience));
}

}  // namespace
}  // namespace ferrite
