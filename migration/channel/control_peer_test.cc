#include "migration/channel/control_peer.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "base/cancel_token.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/protocol/messages.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/wrapped_stream.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kSoon = absl::Seconds(30);

// Remembers the longest piece that was to be read, and how many there were.
class CountedStream : public WrappedStream {
 public:
  using WrappedStream::WrappedStream;

  bool AwaitReads(int count) {
    const TimedMutexLock lock(&mutex_);
    const auto came = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reads_ >= count; };
    return mutex_.AwaitFor(absl::Condition(&came), kSoon);
  }
  size_t longest() {
    const TimedMutexLock lock(&mutex_);
    return longest_;
  }

  absl::Status ReadAll(std::span<uint8_t> out) override {
    {
      const TimedMutexLock lock(&mutex_);
      longest_ = std::max(longest_, out.size());
      ++reads_;
    }
    return WrappedStream::ReadAll(out);
  }

 private:
  TimedMutex mutex_;
  int reads_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t longest_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct Ends {
  std::unique_ptr<Stream> theirs;
  CountedStream* counted = nullptr;
  std::unique_ptr<ControlPeer> peer;
};

Ends Connected(uint32_t most_bytes = kMaxControlBytes, const Host& host = AnyHost()) {
  auto pair = MakeStreamPair();
  EXPECT_TRUE(pair.ok());
  auto counted = std::make_unique<CountedStream>(std::move(pair->first));
  Ends ends{.theirs = std::move(pair->second), .counted = counted.get(), .peer = nullptr};
  auto peer = ControlPeer::Create(host, std::make_unique<StreamControlChannel>(std::move(counted), host.clock),
                                  ControlPeer::Options{.thread_name = "peer",
                                                       .peer_name = "the other",
                                                       .silence = absl::Hours(1),
                                                       .most_bytes = most_bytes,
                                                       .on_message = nullptr},
                                  [](const absl::Status&) {});
  EXPECT_TRUE(peer.ok()) << peer.status();
  ends.peer = *std::move(peer);
  return ends;
}

// R11: who only announces a long message costs no memory.
TEST(ControlPeerTest, MemoryIsTakenForWhatComes) {
  const Ends ends = Connected();
  ASSERT_TRUE(ends.theirs->WriteAll(ControlHeaderOf(kMaxControlBytes)).ok());
  ASSERT_TRUE(ends.counted->AwaitReads(2));
  EXPECT_LE(ends.counted->longest(), size_t{64} << 10);
}

// R11: of a stranger no more is taken than it needs to say what it brings.
TEST(ControlPeerTest, LongerMessagesThanAllowedEndTheConnection) {
  for (const bool longer : {false, true}) {
    SCOPED_TRACE(longer);
    const Ends ends = Connected(kMaxGreetingBytes);
    std::vector<uint8_t> header = ControlHeaderOf(kMaxGreetingBytes + (longer ? 8 : 0));
    ASSERT_TRUE(ends.theirs->WriteAll(header).ok());
    if (longer) {
      ends.peer->AwaitFailure(kSoon);
      EXPECT_EQ(ends.peer->failure().code(), absl::StatusCode::kResourceExhausted) << ends.peer->failure();
    } else {
      ASSERT_TRUE(ends.counted->AwaitReads(2)) << "the payload is read";
      EXPECT_TRUE(ends.peer->failure().ok());
    }
  }
}

TEST(ControlPeerTest, LimitIsRaisedForTheNextMessage) {
  const Ends ends = Connected(kMaxGreetingBytes);
  ends.peer->SetMostBytes(kMaxControlBytes);
  ASSERT_TRUE(ends.theirs->WriteAll(ControlHeaderOf(kMaxControlBytes)).ok());
  ASSERT_TRUE(ends.counted->AwaitReads(2)) << "the payload is read";
  EXPECT_TRUE(ends.peer->failure().ok());
}

// R11
TEST(ControlPeerTest, WhatWaitsIsBoundedWithTheMessages) {
  const Ends ends = Connected(kMaxGreetingBytes);
  const std::vector<uint8_t> blob(kMaxGreetingBytes - 4096);
  const std::vector<uint8_t> frame = Encode(message::Package{.blob = blob});
  for (int i = 0; i < 4 && ends.theirs->WriteAll(frame).ok(); ++i) {
  }
  ends.peer->AwaitFailure(kSoon);
  EXPECT_NE(ends.peer->failure().message().find("that nobody waits for"), absl::string_view::npos)
      << ends.peer->failure();
}

TEST(ControlPeerTest, LongMessagesComeWhole) {
  const Ends ends = Connected();
  std::vector<uint8_t> blob((1 << 20) + 4321);
  for (size_t i = 0; i < blob.size(); ++i) {
    blob[i] = static_cast<uint8_t>(i * 7 + i / 4096);
  }
  ASSERT_TRUE(ends.theirs->WriteAll(Encode(message::Package{.blob = blob})).ok());
  const auto package = ends.peer->Expect<message::Package>(kSoon);
  ASSERT_TRUE(package.ok()) << package.status();
  EXPECT_EQ(package->blob, blob);
}

// What this side cannot decode is no end of the connection: whoever waits for it says why.
TEST(ControlPeerTest, WhatCannotBeDecodedIsAnErrorInItsPlace) {
  const Ends ends = Connected();
  capnp::MallocMessageBuilder unknown;
  unknown.initRoot<stream::Control>().setInvalid();
  capnp::MallocMessageBuilder too_many;
  too_many.initRoot<stream::Control>().initDiscard().initRanges(kMaxRanges + 1);
  for (const std::vector<uint8_t>& frame : {Encode(message::Round{.number = 1}), EncodeControl(unknown),
                                            EncodeControl(too_many), Encode(message::Round{.number = 2})}) {
    ASSERT_TRUE(ends.theirs->WriteAll(frame).ok());
  }
  EXPECT_EQ(*ends.peer->Expect<message::Round>(kSoon), (message::Round{.number = 1}));
  EXPECT_EQ(ends.peer->Next(kSoon).status(), absl::InvalidArgumentError("control frame: an unknown message (0)"));
  EXPECT_EQ(ends.peer->Next(kSoon).status(),
            absl::InvalidArgumentError("DISCARD: 4097 ranges, at most 4096 are allowed"));
  const auto misplaced = ends.peer->Expect<message::Grant>(kSoon);
  EXPECT_EQ(misplaced.status(), absl::InvalidArgumentError("the other sent ROUND where GRANT was due"));
  EXPECT_TRUE(ends.peer->failure().ok()) << ends.peer->failure();
  EXPECT_TRUE(ends.peer->Send(message::Error{.message = "so it cannot go on"}).ok());
}

// R11: nor does it cost more than what can be.
TEST(ControlPeerTest, WhatCannotBeDecodedIsBoundedToo) {
  const Ends ends = Connected();
  capnp::MallocMessageBuilder unknown;
  unknown.initRoot<stream::Control>().setInvalid();
  const std::vector<uint8_t> frame = EncodeControl(unknown);
  for (int i = 0; i < 300 && ends.theirs->WriteAll(frame).ok(); ++i) {
  }
  ends.peer->AwaitFailure(kSoon);
  EXPECT_NE(ends.peer->failure().message().find("that nobody waits for"), absl::string_view::npos)
      << ends.peer->failure();
}

// Who reads nothing, with every buffer full, is not waited for.
TEST(ControlPeerTest, LastWordsAreBrief) {
  constexpr absl::Duration kLong = absl::Seconds(30);
  const Ends ends = Connected();
  ends.peer->SetPatience(kLong);
  ends.theirs->SetPatience(absl::Seconds(1));
  const std::vector<uint8_t> frame = Encode(message::Ping{});
  while (ends.theirs->WriteAll(frame).ok()) {
  }
  const MonotonicTime start = MonotonicTime::Now();
  ends.peer->SendLastWords(absl::AbortedError("no more"));
  EXPECT_LT(MonotonicTime::Now() - start, kLong / 3);
  // Nor is it by the answer to a PING that was being written.
  ends.peer->AwaitFailure(kLong / 3);
  EXPECT_TRUE(absl::EndsWith(ends.peer->failure().message(), "stopped reading")) << ends.peer->failure();
}

// Who interrupts may hold what others wait for.
TEST(ControlPeerTest, InterruptDoesNotWaitForAPeerThatReadsNothing) {
  const Ends ends = Connected();
  ends.peer->SetPatience(absl::Minutes(5));
  absl::Status sent;
  Thread sender = StartOrDie("test-sender", [&] {
    while (sent.ok()) {
      sent = ends.peer->Send(message::Ping{});
    }
  });
  while (ends.counted->IsWritable()) {
    sched_yield();
  }
  const MonotonicTime start = MonotonicTime::Now();
  ends.peer->Interrupt(absl::CancelledError("cancelled"));
  const absl::Duration took = MonotonicTime::Now() - start;
  EXPECT_EQ(ends.peer->Next().status(), absl::CancelledError("cancelled"));
  sender.Join();
  EXPECT_TRUE(absl::EndsWith(sent.message(), "stopped reading")) << sent;
  EXPECT_LT(took, absl::Milliseconds(50));
}

class SilenceTest : public testing::Test {
 protected:
  void HearPing() {
    const std::vector<uint8_t> ping = Encode(message::Ping{});
    std::vector<uint8_t> heard(ping.size());
    ASSERT_TRUE(ends_.theirs->ReadAll(heard).ok());
    EXPECT_EQ(heard, ping);
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  // Of an hour's patience.
  const Ends ends_ = Connected(kMaxControlBytes, host_.get());
};

TEST_F(SilenceTest, PeerThatSaysNothingIsGivenUp) {
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  clock_.Advance(absl::Hours(1) - absl::Milliseconds(1));
  HearPing();
  EXPECT_TRUE(ends_.peer->failure().ok());
  ASSERT_TRUE(clock_.AwaitWaiting(1));
  clock_.Advance(absl::Seconds(3));
  ends_.peer->AwaitFailure(absl::InfiniteDuration());
  EXPECT_EQ(ends_.peer->failure(), absl::UnavailableError("the other was silent for 1h"));
}

TEST_F(SilenceTest, PeerThatAnswersLives) {
  const MonotonicTime start = clock_.Now();
  while (clock_.Now() - start < absl::Hours(3)) {
    ASSERT_TRUE(clock_.AwaitWaiting(1));
    clock_.Advance(absl::Minutes(20));
    while (ends_.theirs->AwaitReadable(clock_, absl::ZeroDuration())) {
      HearPing();
    }
    EXPECT_TRUE(SendControl(*ends_.theirs, message::Pong{}).ok());
  }
  EXPECT_TRUE(ends_.peer->failure().ok()) << ends_.peer->failure();
}

TEST_F(SilenceTest, AnswerIsWaitedForAsLongAsIsSaid) {
  absl::StatusOr<Message> answer;
  Thread waiter = StartOrDie("test-wait", [&] {
    answer = ends_.peer->Next(absl::Minutes(10));
    ends_.peer->AwaitFailure(absl::Minutes(10));
  });
  ASSERT_TRUE(clock_.AwaitWaiting(2));
  clock_.Advance(absl::Minutes(10));
  ASSERT_TRUE(clock_.AwaitWaiting(2));
  clock_.Advance(absl::Minutes(10));
  waiter.Join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(answer.status())) << answer.status();
  EXPECT_TRUE(ends_.peer->failure().ok());
}

TEST(ControlPeerTest, CancelEndsTheWaitForAFailure) {
  const Ends ends = Connected();
  CancelToken cancel = *CancelToken::Create();
  Thread canceller = StartOrDie("test-cancel", [&] { cancel.Cancel(absl::CancelledError("cancelled")); });
  ends.peer->AwaitFailure(absl::InfiniteDuration(), &cancel);
  EXPECT_TRUE(ends.peer->failure().ok());
}

}  // namespace
}  // namespace ferrite::migration
