// Waits for queue pairs with libibverbs: rdma_listen(3).
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_LISTENER_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_LISTENER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "migration/channel/rdma/cm_id.h"
#include "migration/channel/rdma/ibverbs_domain.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// A greeting behind its length, in one byte: what arrives is padded with zeros.
std::string PackGreeting(absl::string_view greeting);
// None where it is not one.
std::optional<absl::string_view> UnpackGreeting(absl::string_view said);

class IbverbsListener final : public QueuePairListener {
 public:
  // At `address`, whose port is 0.
  static absl::StatusOr<std::unique_ptr<QueuePairListener>> Create(std::shared_ptr<IbverbsDomain> domain,
                                                                   std::unique_ptr<CmId> id, RdmaAddress address,
                                                                   const Clock& clock);
  ~IbverbsListener() override;

  uint16_t port() const override { return port_; }
  absl::StatusOr<std::unique_ptr<QueuePair>> Accept(absl::string_view greeting, const QueuePairTerms& terms,
                                                    MonotonicTime deadline, const EventFd& cancel) override;

 private:
  struct Caller {
    std::unique_ptr<CmId> id;
    MonotonicTime came;
  };

  IbverbsListener(std::shared_ptr<IbverbsDomain> domain, std::unique_ptr<CmId> id, EventFd came, const Clock& clock)
      : domain_(std::move(domain)), id_(std::move(id)), came_(std::move(came)), clock_(clock) {}
  // The one that said so, if it is there; those that have waited too long go.
  std::unique_ptr<CmId> Find(absl::string_view greeting);

  const std::shared_ptr<IbverbsDomain> domain_;
  const std::unique_ptr<CmId> id_;
  const EventFd came_;
  const Clock& clock_;
  uint16_t port_ = 0;
  absl::Mutex mutex_;
  std::deque<Caller> callers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_LISTENER_H_
