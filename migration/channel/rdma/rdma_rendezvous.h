// The rendezvous of a move over RDMA: connections over TCP as ever, and queue pairs beside those of pages.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RENDEZVOUS_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RENDEZVOUS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/api/host.h"
#include "migration/api/rdma_options.h"
#include "migration/channel/outside_writers.h"
#include "migration/channel/rdma/rdma_figures.h"
#include "migration/channel/rdma/rdma_place.h"
#include "migration/channel/rdma/rdma_reach.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/rendezvous.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket_rendezvous.h"

namespace ferrite::migration {

// A destination that takes no queue pairs is FAILED_PRECONDITION, with its reason. Threads: as ChannelOpener.
class RdmaOpener final : public ChannelOpener {
 public:
  // `socket` opens the connections, in nothing that encrypts them. `verbs` and `clock` outlive it and the channels.
  // `where`: for people.
  RdmaOpener(std::shared_ptr<SocketOpener> socket, std::string where, Verbs& verbs, const RdmaOptions& options,
             const Clock& clock);

  absl::StatusOr<std::unique_ptr<ControlChannel>> OpenControl(const Preamble& preamble, Terms& terms) override {
    return socket_->OpenControl(preamble, terms);
  }
  absl::StatusOr<std::unique_ptr<PageSink>> OpenPages(const Preamble& preamble, Terms& terms) override;
  absl::StatusOr<std::unique_ptr<UrgentSink>> OpenUrgent(const Preamble& preamble, Terms& terms) override;
  void SetMemory(std::vector<std::span<uint8_t>> regions) override;
  std::string where() const override { return where_; }

  // What it opens the connections with.
  const std::shared_ptr<SocketOpener>& socket() const { return socket_; }
  // Of all moves that it opened channels for.
  const RdmaFigures& figures() const { return *figures_; }

 private:
  // What the channels of one connection share: none of them is left, and it is gone.
  absl::StatusOr<std::shared_ptr<RdmaReach>> Reach(const Stream& stream, MonotonicTime deadline, const EventFd& cancel);

  const std::shared_ptr<SocketOpener> socket_;
  const std::string where_;
  Verbs& verbs_;
  const RdmaOptions options_;
  const Clock& clock_;
  const std::shared_ptr<RdmaFigures> figures_ = std::make_shared<RdmaFigures>();
  std::vector<std::span<uint8_t>> regions_;
  std::weak_ptr<RdmaReach> reach_;
};

// To a destination that listens at `address`, whose kind is kTcp, as OpenAt().
std::shared_ptr<RdmaOpener> OpenRdmaAt(const Address& address, Verbs& verbs, const RdmaOptions& options,
                                       const Clock& clock);

// Takes channels whose source wants queue pairs beside them, and those of others, too. Threads: as ChannelAcceptor;
// HandIn() from any.
class RdmaAcceptor final : public ChannelAcceptor {
 public:
  // `verbs` and `host` outlive it and the channels. Nothing of `socket` encrypts.
  static absl::StatusOr<std::unique_ptr<RdmaAcceptor>> Create(std::unique_ptr<Listener> listener,
                                                              SocketAcceptor::Options socket, Verbs& verbs,
                                                              const RdmaOptions& options, const Host& host);

  void HandIn(std::unique_ptr<SocketStream> stream) { socket_->HandIn(std::move(stream)); }

  absl::StatusOr<std::unique_ptr<IncomingChannel>> Next(const EventFd& cancel, MonotonicTime deadline) override;
  using ChannelAcceptor::Next;
  void PutBack(std::unique_ptr<IncomingChannel> channel) override { socket_->PutBack(std::move(channel)); }
  absl::StatusOr<std::shared_ptr<OutsideWriters>> SetMemory(std::vector<std::span<uint8_t>> regions) override;
  void KeepNothing() override { socket_->KeepNothing(); }
  void SetLetGo(std::function<bool()> let_go) override { socket_->SetLetGo(std::move(let_go)); }
  void SetOnDropped(std::function<void(const std::string& peer, absl::string_view why)> on_dropped) override {
    socket_->SetOnDropped(std::move(on_dropped));
  }

  const RdmaFigures& figures() const { return *figures_; }

 private:
  RdmaAcceptor(Verbs& verbs, const RdmaOptions& options, const Host& host)
      : verbs_(verbs), options_(options), host_(host) {}

  // The destination's end of a page or urgent channel, with what the source is told of it before.
  std::unique_ptr<UrgentFeed> Take(std::unique_ptr<Stream> stream, const Preamble& preamble, absl::Duration patience);
  absl::Status Listen(const Stream& stream, MonotonicTime deadline);
  // Of queue pairs whose source was told of them.
  absl::StatusOr<std::unique_ptr<UrgentFeed>> Connect(std::unique_ptr<Stream>& stream, ChannelRole role,
                                                      const LaneToken& token, MonotonicTime deadline,
                                                      absl::Duration patience);

  Verbs& verbs_;
  const RdmaOptions options_;
  const Host& host_;
  const std::shared_ptr<RdmaFigures> figures_ = std::make_shared<RdmaFigures>();
  std::shared_ptr<VerbsDomain> domain_;
  std::unique_ptr<QueuePairListener> listener_;
  std::shared_ptr<RdmaPlace> place_;
  const EventFd* cancel_ = nullptr;  // of the last Next(), which the channel that it returned is taken by
  std::unique_ptr<SocketAcceptor> socket_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_RDMA_RENDEZVOUS_H_
