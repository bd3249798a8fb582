#include "migration/channel/rdma/rdma_rendezvous.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/rdma/lane_setup.h"
#include "migration/channel/rdma/puller.h"
#include "migration/channel/rdma/rdma_feed.h"
#include "migration/channel/rdma/rdma_sink.h"
#include "migration/channel/rdma/rdma_urgent_feed.h"
#include "migration/channel/socket/dialer.h"
#include "migration/channel/socket/stream_pages.h"
#include "migration/protocol/lanes.h"

namespace ferrite::migration {

RdmaOpener::RdmaOpener(std::shared_ptr<SocketOpener> socket, std::string where, Verbs& verbs,
                       const RdmaOptions& options, const Clock& clock)
    : socket_(std::move(socket)), where_(std::move(where)), verbs_(verbs), options_(options), clock_(clock) {}

void RdmaOpener::SetMemory(std::vector<std::span<uint8_t>> regions) {
  regions_ = std::move(regions);
  reach_.reset();
}

absl::StatusOr<std::shared_ptr<RdmaReach>> RdmaOpener::Reach(const Stream& stream, MonotonicTime deadline,
                                                             const EventFd& cancel) {
  std::shared_ptr<RdmaReach> reach = reach_.lock();
  if (reach == nullptr) {
    FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<VerbsDomain> domain,
                             verbs_.Open(HostThere(stream), Verbs::End::kThere, deadline, cancel));
    reach = std::make_shared<RdmaReach>(regions_, options_, std::move(domain), figures_, clock_);
    reach_ = reach;
  }
  return reach;
}

absl::StatusOr<std::unique_ptr<PageSink>> RdmaOpener::OpenPages(const Preamble& preamble, Terms& terms) {
  return OpenUrgent(preamble, terms);
}

absl::StatusOr<std::unique_ptr<UrgentSink>> RdmaOpener::OpenUrgent(const Preamble& preamble, Terms& terms) {
  Preamble with_lanes = preamble;
  with_lanes.lanes = true;
  const MonotonicTime deadline = clock_.Now() + std::min(terms.limit, options_.connect_limit);
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, socket_->Open(with_lanes, terms));
  FERRITE_ASSIGN_OR_RETURN(const Lanes lanes, AwaitLanes(*stream, clock_.Now() + terms.limit, terms.cancel, clock_));
  FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<RdmaReach> reach, Reach(*stream, deadline, terms.cancel));
  VerbsDomain& domain = reach->domain();
  RdmaPageSink::Pairs pairs;
  if (preamble.role == ChannelRole::kPage) {
    FERRITE_ASSIGN_OR_RETURN(
        pairs.push, domain.Connect(lanes.port, GreetingOf(lanes.token, kPushLane), {}, deadline, terms.cancel));
  }
  FERRITE_ASSIGN_OR_RETURN(pairs.pull, domain.Connect(lanes.port, GreetingOf(lanes.token, kPullLane),
                                                      {.remote_read = true}, deadline, terms.cancel));
  return RdmaPageSink::Create(std::move(stream), std::move(pairs), std::move(reach), terms.patience, clock_);
}

std::shared_ptr<RdmaOpener> OpenRdmaAt(const Address& address, Verbs& verbs, const RdmaOptions& options,
                                       const Clock& clock) {
  auto dialer = std::make_shared<Dialer>(clock);
  auto socket = std::make_shared<SocketOpener>(
      [address, dialer](const Preamble&, absl::Duration limit, const EventFd& cancel) {
        return dialer->Connect(address, limit, cancel);
      },
      address.ToString(), clock);
  return std::make_shared<RdmaOpener>(std::move(socket), absl::StrCat("rdma:", address.host, ":", address.port), verbs,
                                      options, clock);
}

absl::StatusOr<std::unique_ptr<RdmaAcceptor>> RdmaAcceptor::Create(std::unique_ptr<Listener> listener,
                                                                   SocketAcceptor::Options socket, Verbs& verbs,
                                                                   const RdmaOptions& options, const Host& host) {
  std::unique_ptr<RdmaAcceptor> acceptor(new RdmaAcceptor(verbs, options, host));
  socket.lanes = [self = acceptor.get()](std::unique_ptr<Stream> stream, const Preamble& preamble,
                                         absl::Duration patience) {
    return self->Take(std::move(stream), preamble, patience);
  };
  FERRITE_ASSIGN_OR_RETURN(acceptor->socket_, SocketAcceptor::Create(std::move(listener), std::move(socket), host));
  return acceptor;
}

absl::StatusOr<std::unique_ptr<IncomingChannel>> RdmaAcceptor::Next(const EventFd& cancel, MonotonicTime deadline) {
  cancel_ = &cancel;
  return socket_->Next(cancel, deadline);
}

absl::StatusOr<std::shared_ptr<OutsideWriters>> RdmaAcceptor::SetMemory(std::vector<std::span<uint8_t>> regions) {
  FERRITE_ASSIGN_OR_RETURN(place_, RdmaPlace::Create(std::move(regions), options_, figures_, host_));
  return place_;
}

absl::Status RdmaAcceptor::Listen(const Stream& stream, MonotonicTime deadline) {
  if (place_ == nullptr) {
    return absl::FailedPreconditionError("no machine is here yet");
  }
  if (domain_ == nullptr) {
    FERRITE_ASSIGN_OR_RETURN(domain_, verbs_.Open(HostHere(stream), Verbs::End::kHere, deadline, *cancel_));
  }
  if (listener_ == nullptr) {
    FERRITE_ASSIGN_OR_RETURN(listener_, domain_->Listen());
  }
  place_->Begin(domain_);
  return absl::OkStatus();
}

std::unique_ptr<UrgentFeed> RdmaAcceptor::Take(std::unique_ptr<Stream> stream, const Preamble& preamble,
                                               absl::Duration patience) {
  const MonotonicTime deadline = host_.clock.Now() + options_.connect_limit;
  absl::StatusOr<LaneToken> token = MakeLaneToken();
  absl::Status able = token.status();
  able.Update(Listen(*stream, deadline));
  const Lanes lanes = able.ok() ? Lanes{.port = listener_->port(), .token = *token, .reason = ""}
                                : Lanes{.port = 0, .token = {}, .reason = std::string(able.message())};
  // There is room: little was sent to it before. Who is not there any more is found out below.
  (void)stream->WriteSome(EncodeLanes(lanes));
  if (!able.ok()) {
    // Its source ends the move for that.
    return std::make_unique<StreamPageFeed>(std::move(stream));
  }
  const std::string peer = stream->peer();
  absl::StatusOr<std::unique_ptr<UrgentFeed>> feed = Connect(stream, preamble.role, *token, deadline, patience);
  if (feed.ok()) {
    return *std::move(feed);
  }
  host_.log.Warn(absl::StrCat("receive: ", peer, ": no queue pair: ", feed.status().message()));
  // Who reads of it finds that it is lost.
  stream->Shutdown();
  return std::make_unique<StreamPageFeed>(std::move(stream));
}

absl::StatusOr<std::unique_ptr<UrgentFeed>> RdmaAcceptor::Connect(std::unique_ptr<Stream>& stream, ChannelRole role,
                                                                  const LaneToken& token, MonotonicTime deadline,
                                                                  absl::Duration patience) {
  std::unique_ptr<QueuePair> push;
  if (role == ChannelRole::kPage) {
    FERRITE_ASSIGN_OR_RETURN(push, listener_->Accept(GreetingOf(token, kPushLane),
                                                     {.remote_write = place_->may_write()}, deadline, *cancel_));
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<QueuePair> pull,
                           listener_->Accept(GreetingOf(token, kPullLane), {}, deadline, *cancel_));
  if (role == ChannelRole::kPage) {
    return RdmaPageFeed::Create(stream, std::move(push), std::move(pull), domain_, place_, patience, host_.clock);
  }
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Puller> puller,
                           Puller::Create(std::move(pull), domain_, *stream, patience, host_.clock));
  return std::make_unique<RdmaUrgentFeed>(std::move(stream), std::move(puller), host_.clock);
}

}  // namespace ferrite::migration
