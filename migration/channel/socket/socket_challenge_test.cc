// A source that opens a channel, and whoever takes it and does not do as a destination does.
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr Preamble kPage{.lowest_version = 2, .version = 2, .role = ChannelRole::kPage, .index = 3, .move_id = {7}};

class SocketChallengeTest : public testing::Test {
 protected:
  // Opens a page channel, of which there_ is the other end.
  absl::Status Open() { return opener_.OpenPages(kPage, terms_).status(); }
  absl::StatusOr<ChannelProof> Prove(const Preamble& preamble, const Nonce& challenge) {
    EXPECT_EQ(preamble, kPage);
    ++proved_;
    return ChannelProof{.epoch = 5, .source = {6}, .destination = challenge, .digest = challenge};
  }

  FakeClock clock_;
  const EventFd cancel_ = *EventFd::Create();
  std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>> ends_ = *MakeStreamPair();
  SocketStream& there_ = *ends_.second;
  SocketOpener opener_{[this](const Preamble&, absl::Duration, const EventFd&) {
                         return absl::StatusOr<std::unique_ptr<SocketStream>>(std::move(ends_.first));
                       },
                       "there", clock_};
  int proved_ = 0;
  ChannelOpener::Terms terms_{
      .limit = absl::Seconds(10),
      .patience = absl::Hours(1),
      .cancel = cancel_,
      .prove = [this](const Preamble& preamble, const Nonce& challenge) { return Prove(preamble, challenge); }};
};

TEST_F(SocketChallengeTest, IsAnsweredWhenItIsWholeAndNoByteFollowsUnasked) {
  const Thread there = StartOrDie("there", [&] {
    std::array<uint8_t, kPreambleBytes> preamble;
    ASSERT_TRUE(there_.ReadAll(preamble).ok());
    EXPECT_EQ(*DecodePreamble(preamble), kPage);
    Nonce challenge;
    challenge.fill(0x5a);
    ASSERT_TRUE(there_.WriteAll(std::span(challenge).first(31)).ok());
    // It waits for the rest.
    EXPECT_TRUE(clock_.AwaitWaiting(1));
    EXPECT_FALSE(there_.AwaitReadable(clock_, absl::ZeroDuration()));
    ASSERT_TRUE(there_.WriteAll(std::span(challenge).last(1)).ok());
    std::array<uint8_t, kProofBytes> proof;
    ASSERT_TRUE(there_.ReadAll(proof).ok());
    EXPECT_EQ(DecodeProof(proof, challenge),
              (ChannelProof{.epoch = 5, .source = {6}, .destination = challenge, .digest = challenge}));
  });
  EXPECT_EQ(Open(), absl::OkStatus());
  EXPECT_EQ(proved_, 1);
}

// R11: who takes a channel and is silent holds up nobody for longer than there is time.
TEST_F(SocketChallengeTest, IsWaitedForNoLongerThanTheLimit) {
  absl::Status opened;
  Thread source = StartOrDie("source", [&] { opened = Open(); });
  EXPECT_TRUE(clock_.AwaitWaiting(1));
  clock_.Advance(absl::Seconds(10) - absl::Nanoseconds(1));
  EXPECT_TRUE(clock_.AwaitWaiting(1)) << "it is still there";
  clock_.Advance(absl::Nanoseconds(1));
  source.Join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(opened)) << opened;
  EXPECT_TRUE(terms_.reached) << "somebody is there";
  EXPECT_EQ(proved_, 0);
}

TEST_F(SocketChallengeTest, WaitIsCancelled) {
  cancel_.Signal();
  EXPECT_TRUE(absl::IsCancelled(Open()));
  EXPECT_TRUE(terms_.reached);
  EXPECT_EQ(proved_, 0);
}

TEST_F(SocketChallengeTest, WhoClosesInsteadIsLost) {
  ASSERT_TRUE(there_.WriteAll(std::vector<uint8_t>(31)).ok());
  there_.Shutdown();
  const absl::Status opened = Open();
  EXPECT_TRUE(absl::IsUnavailable(opened)) << opened;
  EXPECT_EQ(proved_, 0);
}

TEST_F(SocketChallengeTest, FirstControlChannelIsNotAsked) {
  EXPECT_TRUE(opener_.OpenControl({.lowest_version = 2, .version = 2}, terms_).ok());
  EXPECT_EQ(proved_, 0);
}

}  // namespace
}  // namespace ferrite::migration
