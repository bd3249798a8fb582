#include "migration/channel/rdma/ibverbs.h"

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/status.h"
#include "migration/channel/rdma/cm_id.h"
#include "migration/channel/rdma/ibverbs_devices.h"
#include "migration/channel/rdma/ibverbs_domain.h"
#include "migration/channel/rdma/rdma_library.h"

namespace ferrite::migration {
namespace {

class Ibverbs final : public Verbs {
 public:
  Ibverbs(const RdmaLibrary& library, const Clock& clock, ThreadMaker& threads)
      : library_(library), clock_(clock), threads_(threads) {}

  absl::StatusOr<std::shared_ptr<VerbsDomain>> Open(absl::string_view host, End end, MonotonicTime deadline,
                                                    const EventFd& cancel) override {
    FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<CmEvents> events, Events());
    return IbverbsDomain::Open(std::move(events), host, end, {.clock = clock_, .deadline = deadline, .cancel = cancel});
  }
  absl::StatusOr<std::vector<VerbsDevice>> Devices() override { return IbverbsDevices(library_); }

 private:
  // Of all domains that there are.
  absl::StatusOr<std::shared_ptr<CmEvents>> Events() {
    const absl::MutexLock lock(&mutex_);
    std::shared_ptr<CmEvents> events = events_.lock();
    if (events == nullptr) {
      FERRITE_ASSIGN_OR_RETURN(events, CmEvents::Create(library_, threads_));
      events_ = events;
    }
    return events;
  }

  const RdmaLibrary& library_;
  const Clock& clock_;
  ThreadMaker& threads_;
  absl::Mutex mutex_;
  std::weak_ptr<CmEvents> events_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Verbs>> LoadIbverbs(const Clock& clock, ThreadMaker& threads) {
  FERRITE_ASSIGN_OR_RETURN(const RdmaLibrary* const library, RdmaLibrary::Load());
  return std::make_unique<Ibverbs>(*library, clock, threads);
}

}  // namespace ferrite::migration
