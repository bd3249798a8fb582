// What is TLS's own; what every kind of stream does is in channel/socket's socket_stream_test.
#include "migration/channel/tls/tls_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/tls/tls_stream_rig.h"
#include "migration/channel/wait_set.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/raw_tls_source.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using testing::HasSubstr;

uint8_t ByteAt(size_t at, uint8_t seed) { return static_cast<uint8_t>(at * 31 + at / 251 + seed); }

// All of it, in pieces of random sizes, most of them small, gathered from several places at once.
void Send(Stream& stream, size_t bytes, uint8_t seed) {
  std::minstd_rand random(seed);
  std::vector<uint8_t> piece(100'000);
  for (size_t at = 0; at < bytes;) {
    const size_t most = random() % 64 == 0 ? piece.size() : 2000;
    const size_t now = std::min<size_t>(1 + random() % most, bytes - at);
    for (size_t i = 0; i < now; ++i) {
      piece[i] = ByteAt(at + i, seed);
    }
    const size_t first = random() % (now + 1);
    iovec pieces[] = {{.iov_base = piece.data(), .iov_len = first},
                      {.iov_base = piece.data() + first, .iov_len = now - first}};
    ASSERT_EQ(stream.WriteAll(pieces), absl::OkStatus());
    at += now;
  }
}

void Receive(Stream& stream, size_t bytes, uint8_t seed) {
  std::minstd_rand random(seed + 1);
  std::vector<uint8_t> piece(50'000);
  for (size_t at = 0; at < bytes;) {
    const size_t now = std::min<size_t>(1 + random() % piece.size(), bytes - at);
    ASSERT_EQ(stream.ReadRest(std::span(piece).first(now)), absl::OkStatus());
    size_t same = 0;
    while (same < now && piece[same] == ByteAt(at + same, seed)) {
      ++same;
    }
    ASSERT_EQ(same, now) << "of what begins at " << at;
    at += now;
  }
}

TEST_F(TlsStreamTest, BothWaysAtOnceUnderLoad) {
  Open();
  constexpr size_t kBytes = 12 << 20;  // which is in more records than one key is for
  const Thread one = StartOrDie("test-one", [&] { Send(*source_, kBytes, 1); });
  const Thread two = StartOrDie("test-two", [&] { Receive(*destination_, kBytes, 1); });
  const Thread three = StartOrDie("test-three", [&] { Send(*destination_, kBytes, 2); });
  Receive(*source_, kBytes, 2);
}

TEST_F(TlsStreamTest, NothingGoesInPlain) {
  auto ends = *MakeStreamPair();
  auto line = *MakeStreamPair();
  // The destination's answers come by hand, and what the source says is looked at.
  Open(std::move(ends));
  ASSERT_TRUE(source_->WriteAll(std::vector<uint8_t>(200, 'A')).ok());
  std::array<uint8_t, 512> bytes;
  const ssize_t n = recv(destination_->fd(), bytes.data(), bytes.size(), MSG_PEEK | MSG_DONTWAIT);
  ASSERT_GT(n, 200);
  EXPECT_EQ(bytes[0], 23) << "application data";
  const std::array<uint8_t, 4> plain = {'A', 'A', 'A', 'A'};
  EXPECT_EQ(std::search(bytes.begin(), bytes.begin() + n, plain.begin(), plain.end()), bytes.begin() + n);
}

// Wherever the line is cut, what has not come whole is a connection that broke: an end is said.
TEST_F(TlsStreamTest, CutAtEachByteIsTold) {
  // As many bytes as two records of 8 have on the line.
  constexpr size_t kLine = 2 * (5 + 8 + 1 + 16);
  for (size_t cut = 0; cut <= kLine; ++cut) {
    Raw front = *MakeStreamPair();
    Raw back = *MakeStreamPair();
    // A line in between, which is the test's.
    const auto source = *place_.source()->Start(std::move(front.first));
    const auto destination = *place_.destination()->Start(std::move(back.second));
    std::unique_ptr<Stream> one, two;
    const auto pass = [](SocketStream& from, SocketStream& to) {
      std::array<uint8_t, 8192> bytes;
      if (const auto n = from.ReadSome(bytes); n.ok() && *n > 0) {
        ASSERT_TRUE(to.WriteAll(std::span<const uint8_t>(bytes).first(*n)).ok());
      }
    };
    while (one == nullptr || two == nullptr) {
      if (one == nullptr) {
        one = *source->Step();
      }
      pass(*front.second, *back.first);
      if (two == nullptr) {
        two = *destination->Step();
      }
      pass(*back.first, *front.second);
    }
    ASSERT_TRUE(one->WriteAll(std::vector<uint8_t>(8, 1)).ok());
    ASSERT_TRUE(one->WriteAll(std::vector<uint8_t>(8, 2)).ok());
    std::array<uint8_t, 256> bytes;
    const size_t n = *front.second->ReadSome(bytes);
    ASSERT_EQ(n, kLine);
    ASSERT_TRUE(back.first->WriteAll(std::span<const uint8_t>(bytes).first(cut)).ok());
    back.first.reset();
    std::array<uint8_t, 8> got;
    absl::Status status = two->ReadAll(got);
    if (cut >= kLine / 2) {
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(got[0], 1);
      status = two->ReadAll(got);
    }
    if (cut == kLine) {
      ASSERT_TRUE(status.ok()) << status;
      status = two->ReadAll(got);
    }
    EXPECT_TRUE(absl::IsUnavailable(status)) << cut << ": " << status;
    EXPECT_TRUE(absl::IsUnavailable(two->ReadAll(got))) << "and stays so";
  }
}

TEST_F(TlsStreamTest, ByteThatWasChangedEndsTheConnection) {
  Raw ends = *MakeStreamPair();
  const int raw = dup(ends.first->fd());
  Open(std::move(ends));
  // As the source's: no record of this connection.
  const std::vector<uint8_t> forged = {23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0};
  ASSERT_EQ(send(raw, forged.data(), forged.size(), 0), static_cast<ssize_t>(forged.size()));
  close(raw);
  std::array<uint8_t, 4> bytes;
  const absl::Status status = destination_->ReadAll(bytes);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_FALSE(source_->ReadAll(bytes).ok()) << "which is told";
}

TEST_F(TlsStreamTest, CloseIsHeardBehindWhatWasSent) {
  Open();
  ASSERT_TRUE(source_->WriteAll(std::vector<uint8_t>(40'000, 5)).ok());
  source_.reset();
  std::vector<uint8_t> bytes(40'000);
  ASSERT_TRUE(destination_->ReadAll(bytes).ok());
  EXPECT_TRUE(absl::IsOutOfRange(destination_->ReadAll(std::span(bytes).first(1))));
  EXPECT_TRUE(absl::IsOutOfRange(destination_->ReadAll(std::span(bytes).first(1))));
}

TEST_F(TlsStreamTest, WhoSaidThatItEndsMayStillBeWrittenTo) {
  Open();
  destination_->Shutdown();
  std::array<uint8_t, 4> bytes;
  EXPECT_TRUE(absl::IsOutOfRange(source_->ReadAll(bytes)));
  EXPECT_FALSE(destination_->WriteAll(bytes).ok());
  EXPECT_FALSE(destination_->ReadAll(bytes).ok());
}

// A record that is not whole is in the middle of a frame: its rest has no more time than any other.
TEST_F(TlsStreamTest, PeerThatStopsWithinARecordIsGivenUp) {
  Raw ends = *MakeStreamPair();
  const int raw = dup(ends.first->fd());
  Open(std::move(ends));
  destination_->SetPatience(absl::Milliseconds(20));
  const std::vector<uint8_t> begun = {23, 3, 3, 0, 100, 1, 2};
  ASSERT_EQ(send(raw, begun.data(), begun.size(), 0), static_cast<ssize_t>(begun.size()));
  std::array<uint8_t, 4> bytes;
  EXPECT_THAT(std::string(destination_->ReadAll(bytes).message()), HasSubstr("in the middle of a frame"));
  // Nor is it something to read.
  FakeClock clock;
  const Thread waiter =
      StartOrDie("test-waiter", [&] { EXPECT_FALSE(destination_->AwaitReadable(clock, absl::Seconds(1))); });
  ASSERT_TRUE(clock.AwaitWaiting(1));
  clock.Advance(absl::Seconds(1));
  close(raw);
}

TEST_F(TlsStreamTest, WhatIsLeftOfARecordIsToBeReadWithoutWaiting) {
  Open();
  constexpr uint32_t kTag = 4;
  WaitSet set = *WaitSet::Create();
  const EventFd other = *EventFd::Create();
  ASSERT_TRUE(set.Add(other.fd(), 1).ok());
  ASSERT_TRUE(destination_->Join(set, kTag).ok());
  ASSERT_TRUE(source_->WriteAll(std::vector<uint8_t>(100, 9)).ok());
  ASSERT_EQ(*set.Wait(), kTag);
  std::array<uint8_t, 60> bytes;
  ASSERT_TRUE(destination_->ReadAll(bytes).ok());
  EXPECT_EQ(*set.Wait(), kTag) << "nothing more comes over the line";
  EXPECT_TRUE(destination_->AwaitReadable(RealClock(), absl::ZeroDuration()));
  ASSERT_TRUE(destination_->ReadAll(std::span(bytes).first(40)).ok());
  EXPECT_FALSE(destination_->AwaitReadable(RealClock(), absl::ZeroDuration()));
  other.Signal();
  EXPECT_EQ(*set.Wait(), 1u) << "and nothing is left";
}

// The header of a record may have come with the one before.
TEST_F(TlsStreamTest, RecordsThatWaitTogetherAreAllSeen) {
  Open();
  constexpr uint32_t kTag = 4;
  WaitSet set = *WaitSet::Create();
  ASSERT_TRUE(destination_->Join(set, kTag).ok());
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(source_->WriteAll(std::vector<uint8_t>(32, 9)).ok());
  }
  std::array<uint8_t, 32> bytes;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(*set.Wait(), kTag);
    ASSERT_TRUE(destination_->ReadAll(bytes).ok());
  }
  EXPECT_FALSE(destination_->AwaitReadable(RealClock(), absl::ZeroDuration()));
}

// Somebody with a right certificate, who renews keys as he likes (R11).
class KeyUpdateTest : public TlsStreamTest {
 protected:
  void SetUp() override {
    Raw ends = *MakeStreamPair();
    const auto handshake = *place_.destination()->Start(std::move(ends.second));
    const Thread source =
        StartOrDie("test-source", [&] { raw_ = std::make_unique<RawTlsSource>(place_, std::move(ends.first)); });
    while (destination_ == nullptr) {
      auto step = handshake->Step();
      ASSERT_TRUE(step.ok()) << step.status();
      destination_ = *std::move(step);
      if (destination_ == nullptr) {
        pollfd polled{.fd = handshake->fd(), .events = handshake->events(), .revents = 0};
        (void)RealClock().PollFor({&polled, 1}, absl::Seconds(30));
      }
    }
  }
  void Send(const std::string& records) {
    ASSERT_TRUE(raw_->socket().WriteAll({reinterpret_cast<const uint8_t*>(records.data()), records.size()}).ok());
  }

  std::unique_ptr<RawTlsSource> raw_;
};

TEST_F(KeyUpdateTest, AsManyAsAreOftenEnoughGoBeforeEachPieceOfData) {
  for (int i = 0; i < 3; ++i) {
    Send(raw_->KeyUpdates(TlsConnection::kMostMessages));
    Send(raw_->Data("data"));
    std::array<uint8_t, 4> bytes;
    ASSERT_EQ(destination_->ReadAll(bytes), absl::OkStatus());
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "data");
  }
}

TEST_F(KeyUpdateTest, OneMoreWithoutDataEndsTheConnection) {
  Send(raw_->KeyUpdates(TlsConnection::kMostMessages + 1));
  Send(raw_->Data("data"));
  std::array<uint8_t, 4> bytes;
  const absl::Status status = destination_->ReadAll(bytes);
  ASSERT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("it renews keys again and again, and sends nothing"));
  EXPECT_EQ(destination_->ReadAll(bytes), status) << "and stays so";
}

// Nor by pieces, between which it is only looked whether there is something.
TEST_F(KeyUpdateTest, WhoOnlyLooksCountsThemToo) {
  for (int i = 0; i < TlsConnection::kMostMessages; ++i) {
    Send(raw_->KeyUpdates(1));
    ASSERT_FALSE(destination_->AwaitReadable(RealClock(), absl::ZeroDuration())) << i;
  }
  Send(raw_->KeyUpdates(1));
  ASSERT_TRUE(destination_->AwaitReadable(RealClock(), absl::ZeroDuration())) << "an error";
  std::array<uint8_t, 4> bytes;
  EXPECT_TRUE(absl::IsUnavailable(destination_->ReadAll(bytes)));
}

}  // namespace
}  // namespace ferrite::migration
