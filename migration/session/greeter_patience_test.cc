// How long a source that comes has to say what machine it brings.
#include <gtest/gtest.h>

#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/protocol/messages.h"
#include "migration/session/greeter.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr char kTooLate[] = "the source lives, but did not say what machine it brings within 1h";

class GreeterPatienceTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> Come() {
    auto ends = MakeStreamPair();
    EXPECT_TRUE(ends.ok()) << ends.status();
    greeter_.Admit(std::make_unique<StreamControlChannel>(std::move(ends->first), clock_), "here", kScriptedMove);
    return std::move(ends->second);
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  DropLog drops_{host_.get()};
  Greeter greeter_{{.patience = absl::Hours(1)}, host_.get(), drops_, [] {}, [](const absl::Status&) {}};
};

// Whatever it says meanwhile, but that: and it hears when its time is over.
TEST_F(GreeterPatienceTest, IsEachOnesOwnFromWhenItCame) {
  const MonotonicTime start = clock_.Now();
  EXPECT_EQ(greeter_.deadline(), MonotonicTime::InfiniteFuture());
  const auto first = Come();
  clock_.Advance(absl::Minutes(20));
  const auto second = Come();
  for (Stream* const stream : {first.get(), second.get()}) {
    ScriptedAgreement agreement;
    SendHello(agreement, *stream);
    HearWelcome(agreement, *stream);
  }
  // They live meanwhile: silence has the same limit.
  const auto pass = [&](absl::Duration time) {
    (void)SendControl(*first, message::Ping{});
    EXPECT_TRUE(SendControl(*second, message::Ping{}).ok());
    clock_.Advance(time);
    EXPECT_FALSE(greeter_.Look().has_value());
  };
  pass(absl::Minutes(40) - absl::Nanoseconds(1));
  EXPECT_EQ(greeter_.deadline(), start + absl::Hours(1)) << "it is still there";
  pass(absl::Nanoseconds(1));
  EXPECT_EQ(Hear(*first), kTooLate);
  EXPECT_EQ(greeter_.deadline(), start + absl::Minutes(80));
  pass(absl::Minutes(20) - absl::Nanoseconds(1));
  EXPECT_EQ(greeter_.deadline(), start + absl::Minutes(80)) << "it is still there";
  pass(absl::Nanoseconds(1));
  EXPECT_EQ(Hear(*second), kTooLate);
  EXPECT_EQ(greeter_.deadline(), MonotonicTime::InfiniteFuture());
}

}  // namespace
}  // namespace ferrite::migration
