// Strangers at a lobby where TLS is spoken: they keep nobody waiting, and cost no more than there is for them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/lobby.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/version.h"
#include "migration/secret/proof_bytes.h"
#include "tests/fakes/lobby_rig.h"
#include "tests/fakes/raw_tls_source.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class TlsLobbyTest : public LobbyRig {
 protected:
  std::unique_ptr<Lobby> Make(absl::Duration patience, size_t most = 64) {
    return LobbyRig::Make({.first_bytes = 4,
                           .patience = patience,
                           .most = most,
                           .challenges = [](std::span<const uint8_t> first) { return first[0] == 'a'; },
                           .answer_bytes = 6,
                           .security = place_.destination()},
                          listener_.get());
  }
  // Its handshake, and then those words. Waits for the lobby, which is another thread's.
  std::unique_ptr<Stream> ComeWith(const std::string& words) {
    const auto handshake = *place_.source()->Start(Come());
    while (true) {
      auto stream = handshake->Step();
      EXPECT_TRUE(stream.ok()) << stream.status();
      if (!stream.ok() || *stream != nullptr) {
        EXPECT_TRUE((*stream)->WriteAll({reinterpret_cast<const uint8_t*>(words.data()), words.size()}).ok());
        return *std::move(stream);
      }
      pollfd polled{.fd = handshake->fd(), .events = handshake->events(), .revents = 0};
      (void)RealClock().PollFor({&polled, 1}, absl::Seconds(30));
    }
  }

  const TlsPlace place_;
};

TEST_F(TlsLobbyTest, StrangersKeepNobodyWaiting) {
  const auto lobby = Make(absl::Hours(1));
  const auto silent = Come();
  const auto half = Come();
  const std::vector<uint8_t> begun = {0x16, 3, 1, 1, 0, 1, 0, 0};
  ASSERT_TRUE(half->WriteAll(begun).ok());
  auto plain = Come();
  ASSERT_TRUE(plain->WriteAll(std::vector<uint8_t>{'F', 'E', 'R', 'R', 'I', 'T', 'E', '\n'}).ok());
  plain.reset();
  std::unique_ptr<Stream> honest;
  const Thread source = StartOrDie("test-source", [&] { honest = ComeWith("ok!!and more"); });
  auto came = lobby->Next(cancel_);
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(std::string(came->first_bytes.begin(), came->first_bytes.end()), "ok!!");
  EXPECT_THAT(dropped_, ElementsAre("it does not speak TLS"));
  // What it said in the same record is there.
  std::array<uint8_t, 8> rest;
  ASSERT_TRUE(came->stream->ReadAll(rest).ok());
  EXPECT_EQ(std::string(rest.begin(), rest.end()), "and more");
  EXPECT_NE(came->stream->parties(), "");
}

// Whoever has a certificate can have the library go on over records that are no data; not for as long as he likes.
TEST_F(TlsLobbyTest, WhoRenewsKeysWithoutEndKeepsNobodyWaiting) {
  const auto lobby = Make(absl::Hours(1));
  std::unique_ptr<RawTlsSource> renewing;
  std::unique_ptr<Stream> honest;
  const Thread source = StartOrDie("test-source", [&] {
    renewing = std::make_unique<RawTlsSource>(place_, Come());
    Say(renewing->socket(), renewing->KeyUpdates(100));
    honest = ComeWith("ok!!");
  });
  const auto came = lobby->Next(cancel_);
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(std::string(came->first_bytes.begin(), came->first_bytes.end()), "ok!!");
  ASSERT_EQ(dropped_.size(), 1u);
  EXPECT_THAT(dropped_[0], HasSubstr("it renews keys again and again, and sends nothing"));
}

TEST_F(TlsLobbyTest, HandshakeHasItsTime) {
  const auto lobby = Make(absl::Seconds(1));
  const auto silent = Come();
  ExpectNobody(*lobby);
  EXPECT_THAT(dropped_, ElementsAre("its TLS handshake did not come to an end"));
}

TEST_F(TlsLobbyTest, WhoIsThroughItsHandshakeHasNoMoreTimeThanTheRest) {
  const auto lobby = Make(absl::Seconds(1));
  std::atomic<bool> over{false};
  const Thread waiter = StartOrDie("test-wait", [&] {
    EXPECT_EQ(lobby->Next(cancel_, clock_.Now() + absl::Minutes(1)).status().code(),
              absl::StatusCode::kDeadlineExceeded);
    over = true;
  });
  const std::unique_ptr<Stream> quiet = ComeWith("");
  EXPECT_TRUE(clock_.PassUntil([&] { return over.load(); })) << "it does not wait";
  ASSERT_EQ(dropped_.size(), 1u);
  // Its last word of the handshake may just have been on its way.
  EXPECT_TRUE(dropped_[0] == "it did not say who it is" || dropped_[0] == "its TLS handshake did not come to an end")
      << dropped_[0];
}

TEST_F(TlsLobbyTest, CrowdMakesRoom) {
  const auto lobby = Make(absl::Hours(1), /*most=*/4);
  std::vector<std::unique_ptr<SocketStream>> crowd;
  for (int i = 0; i < 10; ++i) {
    crowd.push_back(Come());
  }
  std::unique_ptr<Stream> honest;
  const Thread source = StartOrDie("test-source", [&] { honest = ComeWith("ok!!"); });
  EXPECT_TRUE(lobby->Next(cancel_).ok());
  EXPECT_GE(dropped_.size(), 6u);
}

TEST_F(TlsLobbyTest, ChallengeIsBoundToTheConnection) {
  const auto lobby = Make(absl::Hours(1));
  Nonce challenge{};
  Nonce bound{};
  const Thread source = StartOrDie("test-source", [&] {
    const auto stream = ComeWith("ask!");
    ASSERT_TRUE(stream->ReadAll(challenge).ok());
    bound = *stream->Bind(challenge);
    ASSERT_TRUE(stream->WriteAll(std::vector<uint8_t>(6, 'x')).ok());
  });
  const auto came = lobby->Next(cancel_);
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(*came->challenge, bound);
  EXPECT_NE(*came->challenge, challenge);
  EXPECT_EQ(std::string(came->answer.begin(), came->answer.end()), "xxxxxx");
}

// An answer that came before it was asked for, in the record of the first bytes, is seen although nothing more comes.
TEST_F(TlsLobbyTest, WhatCameWithTheFirstBytesIsTheAnswer) {
  const auto lobby = Make(absl::Hours(1));
  std::unique_ptr<Stream> hasty;
  const Thread source = StartOrDie("test-source", [&] { hasty = ComeWith("ask!answer"); });
  const auto came = lobby->Next(cancel_);
  ASSERT_TRUE(came.ok()) << came.status();
  EXPECT_EQ(std::string(came->answer.begin(), came->answer.end()), "answer");
}

// Of the source: who listens, and what comes of it.
class TlsOpenerTest : public TlsLobbyTest {
 protected:
  absl::Status Open(absl::Duration limit, const EventFd& cancel) {
    const auto opener = OpenAt(listener_->address(), RealClock(), place_.source());
    ChannelOpener::Terms terms{.limit = limit, .patience = absl::Seconds(30), .cancel = cancel};
    return opener->OpenControl({.lowest_version = kOurVersions.lowest, .version = kOurVersions.newest}, terms).status();
  }
};

TEST_F(TlsOpenerTest, SilentDestinationIsWaitedForNoLongerThanIsSaid) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(Open(absl::Milliseconds(50), cancel_)));
}

TEST_F(TlsOpenerTest, CancelEndsAHandshake) {
  const EventFd cancel = *EventFd::Create();
  const Thread canceller = StartOrDie("test-cancel", [&] {
    // Its hello is here: it waits for ours.
    std::unique_ptr<SocketStream> came;
    pollfd polled{.fd = listener_->fd(), .events = POLLIN, .revents = 0};
    (void)RealClock().PollFor({&polled, 1}, absl::Seconds(30));
    came = *listener_->AcceptNow();
    std::array<uint8_t, 5> head;
    EXPECT_TRUE(came->ReadAll(head).ok());
    EXPECT_EQ(head[0], 0x16);
    cancel.Signal();
    // It closes then.
    std::vector<uint8_t> rest(1 << 16);
    EXPECT_FALSE(came->ReadAll(rest).ok());
  });
  EXPECT_TRUE(absl::IsCancelled(Open(absl::Hours(1), cancel)));
}

TEST_F(TlsOpenerTest, PlainDestinationIsTold) {
  const Thread plain = StartOrDie("test-plain", [&] {
    pollfd polled{.fd = listener_->fd(), .events = POLLIN, .revents = 0};
    (void)RealClock().PollFor({&polled, 1}, absl::Seconds(30));
    const auto came = *listener_->AcceptNow();
    // As a lobby does it with what is no preamble.
    std::array<uint8_t, kPreambleBytes> bytes;
    EXPECT_TRUE(came->ReadAll(bytes).ok());
  });
  const absl::Status status = Open(absl::Seconds(30), cancel_);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("closed the connection in the TLS handshake; is it one that takes TLS?"));
}

}  // namespace
}  // namespace ferrite::migration
