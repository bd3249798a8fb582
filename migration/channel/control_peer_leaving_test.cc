// A peer that says why it goes, and goes, while something is being written to it: its word is not lost with that.
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "migration/channel/control_peer.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/wrapped_stream.h"

namespace ferrite::migration {
namespace {

// Its other end, `theirs`, says CANCEL and goes before the first write.
class LeftStream : public WrappedStream {
 public:
  LeftStream(std::unique_ptr<Stream> stream, Stream& theirs) : WrappedStream(std::move(stream)), theirs_(&theirs) {}

  absl::Status WriteAll(std::span<iovec> buffers) override {
    if (Stream* const theirs = std::exchange(theirs_, nullptr); theirs != nullptr) {
      EXPECT_TRUE(SendControl(*theirs, message::Cancel{.message = "cancelled"}).ok());
      theirs->Shutdown();
    }
    return WrappedStream::WriteAll(buffers);
  }

 private:
  Stream* theirs_;  // of who writes
};

class ControlPeerLeavingTest : public testing::Test {
 protected:
  void SetUp() override {
    auto pair = MakeStreamPair();
    ASSERT_TRUE(pair.ok());
    theirs_ = std::move(pair->second);
    auto stream = std::make_unique<LeftStream>(std::move(pair->first), *theirs_);
    auto peer = ControlPeer::Create(
        host_.get(), std::make_unique<StreamControlChannel>(std::move(stream), clock_),
        ControlPeer::Options{
            .thread_name = "peer", .peer_name = "the other", .silence = absl::Hours(1), .on_message = nullptr},
        [](const absl::Status&) {});
    ASSERT_TRUE(peer.ok()) << peer.status();
    peer_ = *std::move(peer);
  }
  void ExpectWordIsHeard() {
    peer_->AwaitFailure(absl::InfiniteDuration());
    EXPECT_EQ(peer_->failure(), absl::CancelledError("the other says: cancelled"));
    EXPECT_TRUE(peer_->said_why());
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  std::unique_ptr<Stream> theirs_;
  std::unique_ptr<ControlPeer> peer_;
};

TEST_F(ControlPeerLeavingTest, WordIsHeardByWhoAnswersPing) {
  ASSERT_TRUE(SendControl(*theirs_, message::Ping{}).ok());
  // It is answered no more, and may not even be taken.
  (void)SendControl(*theirs_, message::Ping{});
  ExpectWordIsHeard();
}

TEST_F(ControlPeerLeavingTest, WordIsHeardByWhoAsksWhetherItLives) {
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  clock_.Advance(absl::Minutes(20));
  ExpectWordIsHeard();
}

TEST_F(ControlPeerLeavingTest, WordIsHeardByWhoSendsAMessage) {
  EXPECT_FALSE(peer_->Send(message::Discarded{}).ok());
  ExpectWordIsHeard();
}

}  // namespace
}  // namespace ferrite::migration
