#include "tests/fakes/meeting_place.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "tests/fakes/accepting.h"

namespace ferrite::migration {
namespace {

Preamble PreambleOf(ChannelRole role, uint16_t index) {
  return {.lowest_version = kOurVersions.lowest,
          .version = kOurVersions.newest,
          .role = role,
          .index = index,
          .move_id = kScriptedMove};
}

}  // namespace

MeetingPlace::MeetingPlace(FakeClock* clock) : clock_(clock) {
  char name[] = "/tmp/ferrite-peer-XXXXXX";
  EXPECT_NE(mkdtemp(name), nullptr);
  directory_ = name;
  auto closed = EventFd::Create();
  EXPECT_TRUE(closed.ok());
  closed_ = std::make_unique<EventFd>(*std::move(closed));
  auto listener = Listener::Create({.kind = Address::Kind::kUnix, .path = absl::StrCat(directory_, "/s")});
  EXPECT_TRUE(listener.ok()) << listener.status();
  listener_ = *std::move(listener);
  address_ = listener_->address();
}

MeetingPlace::~MeetingPlace() {
  listener_.reset();
  rmdir(directory_.c_str());
}

std::unique_ptr<Stream> MeetingPlace::DialAndSayNothing() {
  auto stream = Connect(address_, absl::Seconds(5), *closed_);
  EXPECT_TRUE(stream.ok()) << stream.status();
  return *std::move(stream);
}

std::unique_ptr<Stream> MeetingPlace::DialAndSayWhat(ChannelRole role, uint16_t index) {
  std::unique_ptr<Stream> stream = DialAndSayNothing();
  EXPECT_TRUE(stream->WriteAll(EncodePreamble(PreambleOf(role, index))).ok());
  return stream;
}

std::unique_ptr<Stream> MeetingPlace::Dial(ChannelRole role, uint64_t epoch, const Credentials* credentials) {
  std::unique_ptr<Stream> stream = DialAndSayWhat(role);
  if (!HasProof(role)) {
    return stream;
  }
  const auto challenge = ReadChallenge(*stream);
  EXPECT_TRUE(challenge.has_value());
  const auto proof = (credentials != nullptr ? *credentials : agreement_.credentials)
                         .ProveChannel(PreambleOf(role, 0), epoch, challenge.value_or(Nonce{}));
  // Who has agreed on nothing says something all the same.
  (void)stream->WriteAll(EncodeProof(proof.value_or(ChannelProof{.epoch = epoch})));
  if (proof.ok() && role == ChannelRole::kRecover && credentials == nullptr) {
    agreement_.credentials.SetControl(*proof);
  }
  return stream;
}

std::optional<Nonce> ReadChallenge(Stream& stream) {
  Nonce challenge;
  return stream.ReadAll(challenge).ok() ? std::optional(challenge) : std::nullopt;
}

bool MeetingPlace::closed() const {
  pollfd polled{.fd = closed_->fd(), .events = POLLIN, .revents = 0};
  return poll(&polled, 1, 0) > 0;
}

bool MeetingPlace::HasCaller() const {
  pollfd polled{.fd = listener_->fd(), .events = POLLIN, .revents = 0};
  return closed() || poll(&polled, 1, 0) > 0;
}

std::unique_ptr<Stream> MeetingPlace::Accept() {
  auto stream = migration::Accept(*listener_, *closed_);
  return stream.ok() ? *std::move(stream) : nullptr;
}

}  // namespace ferrite::migration
