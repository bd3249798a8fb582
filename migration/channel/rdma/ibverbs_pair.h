// A queue pair of libibverbs: ibv_create_qp(3), rdma_connect(3), rdma_accept(3).
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_PAIR_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_PAIR_H_

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "migration/channel/rdma/cm_id.h"
#include "migration/channel/rdma/ibverbs_domain.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

class IbverbsPair final : public QueuePair {
 public:
  // For `id`, whose device is that of `domain`.
  static absl::StatusOr<std::unique_ptr<IbverbsPair>> Create(std::shared_ptr<IbverbsDomain> domain,
                                                             std::unique_ptr<CmId> id, const QueuePairTerms& terms);
  ~IbverbsPair() override;

  // One of these, once. The greeting is of a length that has been checked.
  absl::Status Connect(absl::string_view greeting, const CmWait& wait);
  absl::Status Accept(const CmWait& wait);

  absl::Status PostWrite(uint64_t id, const LocalPiece& from, const RemotePiece& to) override;
  absl::Status PostRead(uint64_t id, const LocalPiece& into, const RemotePiece& from) override;
  absl::Status PostSend(uint64_t id, const LocalPiece& message) override;
  absl::Status PostReceive(uint64_t id, const LocalPiece& into) override;
  absl::StatusOr<size_t> TakeCompletions(std::span<Completion> into) override;
  int fd() const override { return ready_.get(); }
  absl::Status Arm() override;
  void Break() override;
  bool broken() const override;

 private:
  // What was posted: a completion with an error says no more than which one it was.
  struct Slot {
    uint64_t id = 0;
    WorkKind kind = WorkKind::kWrite;
  };
  static constexpr size_t kSlots = kMostWork + kMostReceives;

  IbverbsPair(std::shared_ptr<IbverbsDomain> domain, std::unique_ptr<CmId> id, const QueuePairTerms& terms,
              EventFd has_broken, Fd ready);
  absl::Status Make();
  absl::Status SetAckTimeout();
  rdma_conn_param Params() const;
  // Behind the connection: who may do what, and how soon a message comes again that nothing was posted for.
  absl::Status Finish();
  absl::Status Post(uint64_t id, WorkKind kind, const LocalPiece& local, const RemotePiece& remote);

  const RdmaLibrary& library_;
  const std::shared_ptr<IbverbsDomain> domain_;
  const std::unique_ptr<CmId> id_;
  const QueuePairTerms terms_;
  const EventFd has_broken_;
  const Fd ready_;  // an epoll(7) of the completion channel and has_broken_
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* queue_ = nullptr;
  bool made_ = false;  // the queue pair
  // The one thread's that posts.
  std::array<Slot, kSlots> slots_;
  std::vector<uint16_t> free_work_;
  std::vector<uint16_t> free_receives_;
  mutable absl::Mutex mutex_;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_IBVERBS_PAIR_H_
