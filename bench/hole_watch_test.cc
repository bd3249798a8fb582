#include "bench/hole_watch.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite {
namespace {

TEST(TicksInHolesTest, CountsWhatIsBetweenOnly) {
  EXPECT_EQ(TicksInHoles({}, 100, 200), 0u);
  EXPECT_EQ(TicksInHoles({{.begin = 50, .end = 100}, {.begin = 200, .end = 300}}, 100, 200), 0u);
  EXPECT_EQ(TicksInHoles({{.begin = 120, .end = 130}, {.begin = 150, .end = 155}}, 100, 200), 15u);
  EXPECT_EQ(TicksInHoles({{.begin = 50, .end = 110}}, 100, 200), 10u);
  EXPECT_EQ(TicksInHoles({{.begin = 190, .end = 300}}, 100, 200), 10u);
  EXPECT_EQ(TicksInHoles({{.begin = 50, .end = 300}}, 100, 200), 100u);
}

TEST(TicksInHolesTest, CountsHolesOfTwoProcessorsOnce) {
  EXPECT_EQ(TicksInHoles({{.begin = 140, .end = 160}, {.begin = 120, .end = 150}}, 100, 200), 40u);
  EXPECT_EQ(TicksInHoles({{.begin = 120, .end = 180}, {.begin = 130, .end = 140}}, 100, 200), 60u);
}

TEST(HoleWatchTest, SeesAHoleWhereEverySleepIsTooLong) {
  // By this frequency two ticks are as long as kLate, and each sleep is longer. One that was stopped before a thread
  // had slept saw none.
  std::vector<Hole> holes;
  bool sees_again = false;
  for (const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(60);
       holes.empty() && MonotonicTime::Now() < deadline;) {
    auto watch = HoleWatch::Start(/*tsc_khz=*/1);
    ASSERT_TRUE(watch.ok()) << watch.status();
    holes = (*watch)->Stop();
    sees_again = !(*watch)->Stop().empty();
  }
  ASSERT_FALSE(holes.empty());
  EXPECT_LT(holes[0].begin, holes[0].end);
  EXPECT_FALSE(sees_again);
}

}  // namespace
}  // namespace ferrite
