// A device of libibverbs, and what is registered with it.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DOMAIN_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DOMAIN_H_

#include <netinet/in.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>

#include "migration/channel/rdma/cm_id.h"
#include "migration/channel/rdma/rdma_library.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// A numeric address, to which a port is added. INVALID_ARGUMENT.
struct RdmaAddress {
  sockaddr_storage storage = {};

  static absl::StatusOr<RdmaAddress> Parse(absl::string_view host);
  void SetPort(uint16_t port);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// Follows rdma_resolve_addr(3), ibv_alloc_pd(3), ibv_reg_mr(3). Threads: any.
class IbverbsDomain final : public VerbsDomain, public std::enable_shared_from_this<IbverbsDomain> {
 public:
  static absl::StatusOr<std::shared_ptr<VerbsDomain>> Open(std::shared_ptr<CmEvents> events, absl::string_view host,
                                                           Verbs::End end, const CmWait& wait);
  ~IbverbsDomain() override;

  absl::StatusOr<std::unique_ptr<RegisteredMemory>> Register(std::span<uint8_t> memory, MemoryAccess access) override;
  absl::StatusOr<std::unique_ptr<QueuePairListener>> Listen() override;
  absl::StatusOr<std::unique_ptr<QueuePair>> Connect(uint16_t port, absl::string_view greeting,
                                                     const QueuePairTerms& terms, MonotonicTime deadline,
                                                     const EventFd& cancel) override;
  uint64_t most_registration() const override { return attributes_.max_mr_size; }

  const RdmaLibrary& library() const { return events_->library(); }
  ibv_pd* protection_domain() const { return pd_; }
  const ibv_device_attr& attributes() const { return attributes_; }

 private:
  IbverbsDomain(std::shared_ptr<CmEvents> events, std::unique_ptr<CmId> anchor, absl::string_view host,
                const RdmaAddress& address, const Clock& clock)
      : events_(std::move(events)), anchor_(std::move(anchor)), host_(host), address_(address), clock_(clock) {}

  const std::shared_ptr<CmEvents> events_;
  // Has the device: it stays open as long as this is there.
  const std::unique_ptr<CmId> anchor_;
  const std::string host_;
  const RdmaAddress address_;
  const Clock& clock_;
  ibv_pd* pd_ = nullptr;
  ibv_device_attr attributes_ = {};
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_DOMAIN_H_
