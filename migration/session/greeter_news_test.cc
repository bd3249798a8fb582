// What a greeter calls news.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/session/greeter.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

// Whoever takes the machine closes what the news are told by.
TEST(GreeterNewsTest, AreToldBeforeTheMachineIsTaken) {
  std::atomic<bool> telling{false};
  TimedNotification told;
  TimedNotification taken;
  const TestHost host;
  DropLog drops{host.get()};
  Greeter greeter(
      {.patience = absl::Hours(1)}, host.get(), drops,
      [&] {
        telling = true;
        told.Notify();
        // Long enough for it to be taken meanwhile, if it can be.
        EXPECT_FALSE(taken.WaitFor(absl::Milliseconds(100)));
        telling = false;
      },
      [](const absl::Status&) {});
  auto ends = MakeStreamPair();
  ASSERT_TRUE(ends.ok()) << ends.status();
  greeter.Admit(std::make_unique<StreamControlChannel>(std::move(ends->first), host.get().clock), "here",
                kScriptedMove);
  ScriptedAgreement agreement;
  SendHello(agreement, *ends->second);
  HearWelcome(agreement, *ends->second);
  SendMachine(agreement, *ends->second, {.regions = {{.name = "ram", .bytes = 4096, .page_bytes = 4096}}});
  ASSERT_TRUE(told.WaitFor(absl::Seconds(30)));
  while (!greeter.Look().has_value()) {
    std::this_thread::yield();
  }
  EXPECT_FALSE(telling);
  taken.Notify();
}

}  // namespace
}  // namespace ferrite::migration
