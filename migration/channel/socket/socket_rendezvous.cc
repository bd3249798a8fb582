#include "migration/channel/socket/socket_rendezvous.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "migration/channel/socket/dialer.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/lanes.h"
#include "migration/protocol/proof.h"

namespace ferrite::migration {
namespace {

class SocketIncoming final : public IncomingChannel {
 public:
  // `lanes` is used no later than its acceptor.
  SocketIncoming(Lobby::Arrival arrival, const LaneTaker& lanes, const Clock& clock)
      : arrival_(std::move(arrival)), peer_(arrival_.stream->peer()), lanes_(lanes), clock_(clock) {}

  absl::StatusOr<Preamble> preamble() const override {
    std::array<uint8_t, kPreambleBytes> bytes;
    std::copy(arrival_.first_bytes.begin(), arrival_.first_bytes.end(), bytes.begin());
    return DecodePreamble(bytes);
  }
  std::optional<ChannelProof> proof() const override {
    if (!arrival_.challenge.has_value()) {
      return std::nullopt;
    }
    ChannelProof proof = DecodeProof(std::span(arrival_.answer).first<kProofBytes>(), *arrival_.challenge);
    proof.parties = arrival_.stream->parties();
    return proof;
  }
  const std::string& peer() const override { return peer_; }
  const std::string& origin() const override { return arrival_.origin; }
  std::unique_ptr<ControlChannel> TakeControl(absl::Duration patience) override {
    return std::make_unique<StreamControlChannel>(Take(patience), clock_);
  }
  std::unique_ptr<PageFeed> TakePages(absl::Duration patience) override { return TakeUrgent(patience); }
  std::unique_ptr<UrgentFeed> TakeUrgent(absl::Duration patience) override {
    const absl::StatusOr<Preamble> preamble = SocketIncoming::preamble();
    std::unique_ptr<Stream> stream = Take(patience);
    if (preamble.ok() && preamble->lanes && lanes_) {
      return lanes_(std::move(stream), *preamble, patience);
    }
    if (preamble.ok() && preamble->lanes) {
      // Its source ends the move for that.
      (void)stream->WriteSome(EncodeLanes({.reason = "it listens on an address that is none of rdma:"}));
    }
    return std::make_unique<StreamPageFeed>(std::move(stream));
  }

  Lobby::Arrival TakeArrival() { return std::move(arrival_); }

 private:
  std::unique_ptr<Stream> Take(absl::Duration patience) {
    arrival_.stream->SetPatience(patience);
    return std::move(arrival_.stream);
  }

  Lobby::Arrival arrival_;
  const std::string peer_;
  const LaneTaker& lanes_;
  const Clock& clock_;
};

// Whether a connection that begins so has to prove that it belongs to its move. Of what is no preamble nothing is
// asked.
bool IsChallenged(std::span<const uint8_t> first_bytes) {
  const absl::StatusOr<Preamble> preamble = DecodePreamble(first_bytes.first<kPreambleBytes>());
  return preamble.ok() && HasProof(preamble->role);
}

// `socket`, wrapped in `security`.
absl::StatusOr<std::unique_ptr<Stream>> Secure(std::unique_ptr<SocketStream> socket, StreamSecurity& security,
                                               MonotonicTime deadline, const EventFd& cancel, const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(const std::unique_ptr<Handshake> handshake, security.Start(std::move(socket)));
  while (true) {
    absl::StatusOr<std::unique_ptr<Stream>> stream = handshake->Step();
    if (!stream.ok()) {
      return Annotate(stream.status(), handshake->peer());
    }
    if (*stream != nullptr) {
      return stream;
    }
    pollfd polled[] = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                       {.fd = handshake->fd(), .events = handshake->events(), .revents = 0}};
    (void)clock.PollFor(polled, deadline - clock.Now());
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(handshake->peer(), ": cancelled"));
    }
    if (clock.Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(handshake->peer(), " took a connection, but no TLS handshake came to an end in time"));
    }
  }
}

// The destination's, to a connection that has said who it is.
absl::StatusOr<Nonce> AwaitChallenge(Stream& stream, MonotonicTime deadline, const EventFd& cancel,
                                     const Clock& clock) {
  Nonce challenge;
  size_t have = 0;
  while (have < challenge.size()) {
    // What is here already need not show at the descriptor.
    const absl::StatusOr<size_t> n = stream.ReadSome(std::span(challenge).subspan(have));
    if (!n.ok()) {
      return absl::UnavailableError(n.status().message());
    }
    have += *n;
    if (*n > 0) {
      continue;
    }
    pollfd polled[] = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                       {.fd = stream.fd(), .events = POLLIN, .revents = 0}};
    (void)clock.PollFor(polled, deadline - clock.Now());
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat(stream.peer(), ": cancelled"));
    }
    if (polled[1].revents == 0 && clock.Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat(stream.peer(), " took a connection of the move, but sent no challenge in time"));
    }
  }
  return challenge;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> SocketOpener::Open(const Preamble& preamble, Terms& terms) {
  const MonotonicTime deadline = clock_.Now() + terms.limit;
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<SocketStream> socket, connect_(preamble, terms.limit, terms.cancel));
  terms.reached = true;
  std::unique_ptr<Stream> stream;
  if (security_ != nullptr) {
    FERRITE_ASSIGN_OR_RETURN(stream, Secure(std::move(socket), *security_, deadline, terms.cancel, clock_));
  } else {
    stream = std::move(socket);
  }
  stream->SetPatience(terms.patience);
  FERRITE_RETURN_IF_ERROR(stream->WriteAll(EncodePreamble(preamble)));
  if (HasProof(preamble.role)) {
    FERRITE_ASSIGN_OR_RETURN(const Nonce challenge, AwaitChallenge(*stream, deadline, terms.cancel, clock_));
    FERRITE_ASSIGN_OR_RETURN(const Nonce bound, stream->Bind(challenge));
    FERRITE_ASSIGN_OR_RETURN(const ChannelProof proof, terms.prove(preamble, bound));
    FERRITE_RETURN_IF_ERROR(stream->WriteAll(EncodeProof(proof)));
  }
  return stream;
}

absl::StatusOr<std::unique_ptr<ControlChannel>> SocketOpener::OpenControl(const Preamble& preamble, Terms& terms) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, Open(preamble, terms));
  return std::make_unique<StreamControlChannel>(std::move(stream), clock_);
}

absl::StatusOr<std::unique_ptr<PageSink>> SocketOpener::OpenPages(const Preamble& preamble, Terms& terms) {
  return OpenUrgent(preamble, terms);
}

absl::StatusOr<std::unique_ptr<UrgentSink>> SocketOpener::OpenUrgent(const Preamble& preamble, Terms& terms) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, Open(preamble, terms));
  return std::make_unique<StreamPageSink>(std::move(stream));
}

std::shared_ptr<ChannelOpener> OpenAt(const Address& address, const Clock& clock,
                                      std::shared_ptr<StreamSecurity> security) {
  return std::make_shared<SocketOpener>([address, dialer = std::make_shared<Dialer>(clock)](
                                            const Preamble&, absl::Duration limit,
                                            const EventFd& cancel) { return dialer->Connect(address, limit, cancel); },
                                        address.ToString(), clock, std::move(security));
}

absl::StatusOr<std::unique_ptr<SocketAcceptor>> SocketAcceptor::Create(std::unique_ptr<Listener> listener,
                                                                       Options options, const Host& host) {
  LaneTaker lanes = std::move(options.lanes);
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Lobby> lobby, Lobby::Create(listener.get(),
                                                                       {.first_bytes = kPreambleBytes,
                                                                        .patience = options.patience,
                                                                        .keep_free = options.machine_descriptors,
                                                                        .from = std::move(options.from),
                                                                        .challenges = IsChallenged,
                                                                        .answer_bytes = kProofBytes,
                                                                        .security = std::move(options.security)},
                                                                       host));
  return std::unique_ptr<SocketAcceptor>(
      new SocketAcceptor(std::move(listener), std::move(lobby), std::move(lanes), host.clock));
}

absl::StatusOr<std::unique_ptr<IncomingChannel>> SocketAcceptor::Next(const EventFd& cancel, MonotonicTime deadline) {
  FERRITE_ASSIGN_OR_RETURN(Lobby::Arrival arrival, lobby_->Next(cancel, deadline));
  return std::make_unique<SocketIncoming>(std::move(arrival), lanes_, clock_);
}

void SocketAcceptor::PutBack(std::unique_ptr<IncomingChannel> channel) {
  // All that came from here are of this kind.
  lobby_->PutBack(static_cast<SocketIncoming&>(*channel).TakeArrival());
}

}  // namespace ferrite::migration
