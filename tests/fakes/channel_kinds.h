// Both ends of a channel of each kind: what every kind does, whatever carries it, is tested with this. A new kind joins
// EveryKind().
#ifndef FERRITE_TESTS_FAKES_CHANNEL_KINDS_H_
#define FERRITE_TESTS_FAKES_CHANNEL_KINDS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/thread.h"
#include "migration/channel/page_feed.h"
#include "migration/channel/page_sink.h"
#include "migration/channel/pair/pair_rendezvous.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "migration/secret/proof_bytes.h"
#include "tests/fakes/acceptor_of.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {

inline constexpr absl::Duration kSoon = absl::Seconds(30);

inline PairRendezvous MeetInProcess() { return *MakePair(RealClock()); }

// Over sockets that somebody else has connected, and what they are wrapped in.
inline PairRendezvous MeetOverSocketsIn(std::shared_ptr<StreamSecurity> source,
                                        std::shared_ptr<StreamSecurity> destination) {
  std::unique_ptr<SocketAcceptor> acceptor = AcceptorOf(nullptr, {.security = std::move(destination)});
  auto opener = std::make_shared<SocketOpener>(
      [acceptor = acceptor.get()](const Preamble&, absl::Duration,
                                  const EventFd&) -> absl::StatusOr<std::unique_ptr<SocketStream>> {
        auto ends = *MakeStreamPair();
        acceptor->HandIn(std::move(ends.second));
        return std::move(ends.first);
      },
      "handed in", RealClock(), std::move(source));
  return {.opener = std::move(opener), .acceptor = std::move(acceptor)};
}

inline PairRendezvous MeetOverSockets() { return MeetOverSocketsIn(nullptr, nullptr); }

inline PairRendezvous MeetOverTls() {
  const TlsPlace place;
  return MeetOverSocketsIn(place.source(), place.destination());
}

struct Kind {
  const char* name;
  PairRendezvous (*meet)();
};

class ChannelKindsTest : public testing::TestWithParam<Kind> {
 protected:
  Preamble Of(ChannelRole role, uint16_t index = 0) {
    return {.lowest_version = kOurVersions.lowest,
            .version = kOurVersions.newest,
            .role = role,
            .index = index,
            .move_id = {7}};
  }
  // With proofs from which the test tells what was asked of whom.
  ChannelOpener::Terms Terms() {
    return {.limit = kSoon,
            .patience = kSoon,
            .cancel = never_,
            .prove = [](const Preamble& preamble, const Nonce& challenge) -> absl::StatusOr<ChannelProof> {
              return ChannelProof{
                  .epoch = preamble.index + 5u, .source = {3}, .destination = challenge, .digest = challenge};
            }};
  }
  std::unique_ptr<IncomingChannel> Come() {
    auto channel = place_.acceptor->Next(never_);
    EXPECT_TRUE(channel.ok()) << channel.status();
    return *std::move(channel);
  }
  void OpenControl() {
    const std::unique_ptr<IncomingChannel> came = ComeOf([&](ChannelOpener::Terms& terms) {
      return Keep(source_, place_.opener->OpenControl(Of(ChannelRole::kControl), terms));
    });
    ASSERT_NE(came, nullptr);
    destination_ = came->TakeControl(kSoon);
  }
  // Who opens one that has to prove something, or is wrapped in something, waits until it is asked to.
  template <typename Open>
  std::unique_ptr<IncomingChannel> ComeOf(const Open& open) {
    const Thread opener = StartOrDie("test-open", [&] {
      auto terms = Terms();
      const absl::Status opened = open(terms);
      EXPECT_TRUE(opened.ok()) << opened;
      EXPECT_TRUE(terms.reached);
    });
    return Come();
  }
  template <typename Channel>
  static absl::Status Keep(std::unique_ptr<Channel>& kept, absl::StatusOr<std::unique_ptr<Channel>> opened) {
    if (opened.ok()) {
      kept = *std::move(opened);
    }
    return opened.status();
  }
  void OpenUrgent() {
    const std::unique_ptr<IncomingChannel> came = ComeOf([&](ChannelOpener::Terms& terms) {
      return Keep(sink_, place_.opener->OpenUrgent(Of(ChannelRole::kUrgent), terms));
    });
    ASSERT_NE(sink_, nullptr);
    feed_ = came->TakeUrgent(kSoon);
  }
  const EventFd never_ = *EventFd::Create();
  PairRendezvous place_ = GetParam().meet();
  std::unique_ptr<ControlChannel> source_, destination_;
  std::unique_ptr<UrgentSink> sink_;
  std::unique_ptr<UrgentFeed> feed_;
};

inline auto EveryKind() {
  return testing::Values(Kind{"Sockets", MeetOverSockets}, Kind{"Tls", MeetOverTls}, Kind{"Pair", MeetInProcess});
}
inline std::string KindName(const testing::TestParamInfo<Kind>& info) { return info.param.name; }

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_CHANNEL_KINDS_H_
