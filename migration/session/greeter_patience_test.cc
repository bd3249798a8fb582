// How long a source that comes has to say what machine it brings.
#include <gtest/gtest.h>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/protocol/messages.h"
#include "migration/session/greeter.h"
#include "migration/session/greeter_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_peer.h"

namespace ferrite::migration {
namespace {

constexpr char kTooLate[] = "the source lives, but did not say what machine it brings within 1h";

// Whatever it says meanwhile, but that: and it hears when its time is over.
TEST(GreeterPatienceTest, IsEachOnesOwnFromWhenItCame) {
  FakeClock clock;
  GreeterRig rig({.clock = clock});
  Greeter& greeter = rig.greeter();
  const MonotonicTime start = clock.Now();
  EXPECT_EQ(greeter.deadline(), MonotonicTime::InfiniteFuture());
  const auto first = rig.Come();
  clock.Advance(absl::Minutes(20));
  const auto second = rig.Come();
  for (Stream* const stream : {first.get(), second.get()}) {
    rig.SayHello(*stream);
    rig.BeWelcomed(*stream);
  }
  // They live meanwhile: silence has the same limit.
  const auto pass = [&](absl::Duration time) {
    (void)SendControl(*first, message::Ping{});
    EXPECT_TRUE(SendControl(*second, message::Ping{}).ok());
    clock.Advance(time);
    EXPECT_FALSE(greeter.Look().has_value());
  };
  pass(absl::Minutes(40) - absl::Nanoseconds(1));
  EXPECT_EQ(greeter.deadline(), start + absl::Hours(1)) << "it is still there";
  pass(absl::Nanoseconds(1));
  EXPECT_EQ(Hear(*first), kTooLate);
  EXPECT_EQ(greeter.deadline(), start + absl::Minutes(80));
  pass(absl::Minutes(20) - absl::Nanoseconds(1));
  EXPECT_EQ(greeter.deadline(), start + absl::Minutes(80)) << "it is still there";
  pass(absl::Nanoseconds(1));
  EXPECT_EQ(Hear(*second), kTooLate);
  EXPECT_EQ(greeter.deadline(), MonotonicTime::InfiniteFuture());
}

}  // namespace
}  // namespace ferrite::migration
