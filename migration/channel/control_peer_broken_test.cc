// BROKEN, which is for another one than who takes the other messages.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/timed_mutex.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(30);

class BrokenTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = MakeStreamPair();
    ASSERT_TRUE(pair.ok());
    theirs_ = std::make_unique<StreamControlChannel>(std::move(pair->first), RealClock());
    auto peer = ControlPeer::Create(
        AnyHost(), std::make_unique<StreamControlChannel>(std::move(pair->second), RealClock()),
        {.thread_name = "peer", .peer_name = "the other", .on_message = nullptr}, [](const absl::Status&) {});
    ASSERT_TRUE(peer.ok()) << peer.status();
    peer_ = *std::move(peer);
  }

  std::unique_ptr<StreamControlChannel> theirs_;
  std::unique_ptr<ControlPeer> peer_;
};

// Who opened connections may hear that one of them has ended before it is ready for that.
TEST_F(BrokenTest, BrokenWaitsForWhoTakesIt) {
  const auto broken = [](uint16_t channel) { return message::Broken{.channel = channel, .missing = {}, .last = true}; };
  ASSERT_TRUE(theirs_->Send(broken(1)).ok());
  ASSERT_TRUE(theirs_->Send(message::Opened{}).ok());
  ASSERT_TRUE(theirs_->Send(broken(2)).ok());
  // The answer says that all of them have been read.
  ASSERT_TRUE(theirs_->Send(message::Ping{}).ok());
  ASSERT_TRUE(theirs_->Next(kSoon).ok());
  std::vector<uint16_t> heard;
  TimedNotification third;
  peer_->SetOnBroken([&](const message::Broken& one) {
    heard.push_back(one.channel);
    if (one.channel == 3) {
      third.Notify();
    }
    return one.channel < 4 ? absl::OkStatus() : absl::InvalidArgumentError("there is no such channel");
  });
  EXPECT_EQ(heard, (std::vector<uint16_t>{1, 2}));
  EXPECT_TRUE(peer_->Expect<message::Opened>(kSoon).ok()) << "they are in nobody's way";
  ASSERT_TRUE(theirs_->Send(broken(3)).ok());
  EXPECT_TRUE(third.WaitFor(kSoon));
  ASSERT_TRUE(theirs_->Send(broken(4)).ok());
  peer_->AwaitFailure(kSoon);
  EXPECT_TRUE(absl::IsInvalidArgument(peer_->failure()));
  peer_->SetOnBroken(nullptr);
}

TEST_F(BrokenTest, BrokenThatWaitedMayBeWrong) {
  ASSERT_TRUE(theirs_->Send(message::Broken{}).ok());
  ASSERT_TRUE(theirs_->Send(message::Ping{}).ok());
  ASSERT_TRUE(theirs_->Next(kSoon).ok());
  peer_->SetOnBroken([](const message::Broken&) { return absl::InvalidArgumentError("there is no such channel"); });
  EXPECT_TRUE(absl::IsInvalidArgument(peer_->failure()));
  EXPECT_FALSE(peer_->Next(kSoon).ok());
}

}  // namespace
}  // namespace ferrite::migration
