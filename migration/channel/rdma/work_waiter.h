// Waiting for the work of a queue pair, beside the stream that watches over it.
#ifndef FERRITE_MIGRATION_CHANNEL_RDMA_WORK_WAITER_H_
#define FERRITE_MIGRATION_CHANNEL_RDMA_WORK_WAITER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/channel/rdma/verbs.h"
#include "migration/channel/socket/stream.h"

namespace ferrite::migration {

// Threads: one; SetPatience() from any.
class WorkWaiter {
 public:
  // All outlive it.
  WorkWaiter(QueuePair& pair, const Stream& stream, absl::Duration patience, const Clock& clock)
      : pair_(pair), stream_(stream), clock_(clock), patience_(absl::ToInt64Nanoseconds(patience)) {}

  // Waits until something is over: how much, at least one, at the front of `into`, all of it well. UNAVAILABLE when
  // something is not, the queue pair is broken, the other end of the stream is gone, or nothing is over in time.
  absl::StatusOr<size_t> Await(std::span<Completion> into);
  // The same of what is over by now, which may be nothing. Never waits.
  absl::StatusOr<size_t> Take(std::span<Completion> into);
  void SetPatience(absl::Duration patience) { patience_ = absl::ToInt64Nanoseconds(patience); }

 private:
  QueuePair& pair_;
  const Stream& stream_;
  const Clock& clock_;
  std::atomic<int64_t> patience_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_RDMA_WORK_WAITER_H_
