// The rendezvous of a move over sockets: at an address, or over connections that somebody else makes.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_RENDEZVOUS_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_RENDEZVOUS_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "migration/api/host.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/address_range.h"
#include "migration/channel/socket/lobby.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_security.h"

namespace ferrite::migration {

// A socket that is connected to the destination, for the channel of `preamble`. Within `limit`; CANCELLED as soon as
// `cancel` is signalled.
using Connector = std::function<absl::StatusOr<std::unique_ptr<SocketStream>>(
    const Preamble& preamble, absl::Duration limit, const EventFd& cancel)>;

// Threads: as ChannelOpener.
class SocketOpener final : public ChannelOpener {
 public:
  // `connect` is asked for each channel. `where`: what it leads to, for people. `clock` outlives it and the channels.
  // All connections are wrapped in `security`; null: in nothing.
  SocketOpener(Connector connect, std::string where, const Clock& clock,
               std::shared_ptr<StreamSecurity> security = nullptr)
      : connect_(std::move(connect)), where_(std::move(where)), clock_(clock), security_(std::move(security)) {}

  absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) override;
  absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) override;
  absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) override;
  std::string where() const override { return where_; }
  // A channel of any role, whose challenge is answered: for kinds that put more beside it.
  absl::StatusOr<std::unique_ptr<Stream>> Open(const Preamble& preamble, Terms& terms);

 private:
  const Connector connect_;
  const std::string where_;
  const Clock& clock_;
  const std::shared_ptr<StreamSecurity> security_;
};

// Connects to `address` for each channel, as Dialer does. `clock` is that of the source's host.
std::shared_ptr<ChannelOpener> OpenAt(const Address& address, const Clock& clock = RealClock(),
                                      std::shared_ptr<StreamSecurity> security = nullptr);

// Makes the destination's end of a page or urgent channel of a stream whose source wants lanes, which it is to be told
// of there first.
using LaneTaker = std::function<std::unique_ptr<UrgentFeed>(std::unique_ptr<Stream> stream, const Preamble& preamble,
                                                            absl::Duration patience)>;

// Threads: as ChannelAcceptor; HandIn() from any.
class SocketAcceptor final : public ChannelAcceptor {
 public:
  struct Options {
    absl::Duration patience = absl::Seconds(60);  // that a connection has to say who it is
    // Whose connections are let in; empty: everybody's. Others are closed without a word.
    std::vector<AddressRange> from;
    // Descriptors that a machine and its move may need, which strangers do not get: until KeepNothing().
    size_t machine_descriptors = 0;
    // What all connections are wrapped in: who speaks plain is not let in. Null: nothing.
    std::shared_ptr<StreamSecurity> security = nullptr;
    // Null: who wants lanes hears that there are none.
    LaneTaker lanes = nullptr;
  };
  // Without a listener (null) there are the connections that are handed in. `host` outlives it and the channels.
  static absl::StatusOr<std::unique_ptr<SocketAcceptor>> Create(std::unique_ptr<Listener> listener, Options options,
                                                                const Host& host);

  // A connection of the source's that came another way. On any thread, also while Next() waits.
  void HandIn(std::unique_ptr<SocketStream> stream) { lobby_->HandIn(std::move(stream)); }

  absl::StatusOr<std::unique_ptr<IncomingChannel>> Next(const EventFd& cancel, MonotonicTime deadline) override;
  using ChannelAcceptor::Next;
  void PutBack(std::unique_ptr<IncomingChannel> channel) override;
  void KeepNothing() override { lobby_->KeepFree(0); }
  void SetLetGo(std::function<bool()> let_go) override { lobby_->SetLetGo(std::move(let_go)); }
  void SetOnDropped(Lobby::OnDropped on_dropped) override { lobby_->SetOnDropped(std::move(on_dropped)); }

 private:
  SocketAcceptor(std::unique_ptr<Listener> listener, std::unique_ptr<Lobby> lobby, LaneTaker lanes, const Clock& clock)
      : listener_(std::move(listener)), lobby_(std::move(lobby)), lanes_(std::move(lanes)), clock_(clock) {}

  const std::unique_ptr<Listener> listener_;
  const std::unique_ptr<Lobby> lobby_;
  const LaneTaker lanes_;
  const Clock& clock_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_RENDEZVOUS_H_
