// A device's queue pairs that a test breaks, as when something befalls one of them.
#ifndef FERRITE_TESTS_FAKES_CUT_VERBS_H_
#define FERRITE_TESTS_FAKES_CUT_VERBS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "migration/channel/rdma/verbs.h"

namespace ferrite::migration {

// What is made of it goes before it. Threads: any.
class CutVerbs final : public Verbs {
 public:
  explicit CutVerbs(std::unique_ptr<Verbs> verbs) : verbs_(std::move(verbs)) {}

  // All queue pairs that are there: how many. Nobody on the other side is told.
  size_t CutAll();
  // WRITEs and READs that were posted, of all of them.
  uint64_t writes() const { return writes_; }
  uint64_t reads() const { return reads_; }

  absl::StatusOr<std::shared_ptr<VerbsDomain>> Open(absl::string_view host, End end, MonotonicTime deadline,
                                                    const EventFd& cancel) override;
  absl::StatusOr<std::vector<VerbsDevice>> Devices() override { return verbs_->Devices(); }

 private:
  class Domain;
  class QueuePairs;
  class Pair;

  std::unique_ptr<QueuePair> Keep(std::unique_ptr<QueuePair> pair);

  const std::unique_ptr<Verbs> verbs_;
  mutable absl::Mutex mutex_;
  std::set<QueuePair*> pairs_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> writes_{0};
  std::atomic<uint64_t> reads_{0};
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_CUT_VERBS_H_
