// What a greeter calls news.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "migration/session/greeter.h"
#include "migration/session/greeter_rig.h"

namespace ferrite::migration {
namespace {

// Whoever takes the machine closes what the news are told by.
TEST(GreeterNewsTest, AreToldBeforeTheMachineIsTaken) {
  std::atomic<bool> telling{false};
  TimedNotification told;
  TimedNotification taken;
  GreeterRig rig({.on_news = [&] {
    telling = true;
    told.Notify();
    // Long enough for it to be taken meanwhile, if it can be.
    EXPECT_FALSE(taken.WaitFor(absl::Milliseconds(100)));
    telling = false;
  }});
  const auto source = rig.ComeAndBeWelcomed();
  rig.SayMachine(*source);
  ASSERT_TRUE(told.WaitFor(absl::Seconds(30)));
  while (!rig.greeter().Look().has_value()) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(telling);
  taken.Notify();
}

}  // namespace
}  // namespace ferrite::migration
