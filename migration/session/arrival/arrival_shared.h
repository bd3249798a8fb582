// What the threads of an arrival and everybody else have in common.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_SHARED_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_SHARED_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel_token.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/placing/page_receiver.h"
#include "migration/placing/wait_accounts.h"

namespace ferrite::migration {

// Others say here what they want of the move, and the move what became of it.
//
// Threads: any; Tell…() that of the arrival alone.
class ArrivalShared {
 public:
  // `clock` outlives it.
  static absl::StatusOr<std::unique_ptr<ArrivalShared>> Create(const Clock& clock);

  MoveStateMachine& state() { return state_; }

  // The move is to end; cancelled only by who has changed the state to cancelling.
  CancelToken& cancel() { return cancel_; }
  // A source that is gone is not to be waited for.
  CancelToken& leave() { return leave_; }

  // What was received, over all connections together.
  ReceiveFigures& figures() { return figures_; }
  std::atomic<bool> postcopy{false};
  // All pages are here.
  std::atomic<bool> whole{false};

  void TellWaits(std::shared_ptr<const WaitAccounts> waits);
  void TellLoad(absl::Duration load);
  // The guest was taken over, which took from `start` until `end`.
  void TellRun(MonotonicTime start, MonotonicTime end);
  // How long it waited for a processor while the guest stood still, and then the guest's vCPUs until they ran.
  void TellHostWait(absl::Duration wait);
  void TellEntryWait(absl::Duration wait);
  // Host pages that came as lost, as guest-physical addresses.
  void TellLost(std::vector<uint64_t> pages);

  bool HasGuest() const;
  // How long; zero when it has not.
  absl::Duration has_guest_for() const;
  MoveReport report() const;

 private:
  ArrivalShared(const Clock& clock, CancelToken cancel, CancelToken leave)
      : clock_(clock), cancel_(std::move(cancel)), leave_(std::move(leave)) {}

  const Clock& clock_;
  MoveStateMachine state_;
  CancelToken cancel_;
  CancelToken leave_;
  ReceiveFigures figures_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const WaitAccounts> waits_ ABSL_GUARDED_BY(mutex_);
  absl::Duration load_ ABSL_GUARDED_BY(mutex_);
  absl::Duration host_wait_ ABSL_GUARDED_BY(mutex_);
  absl::Duration entry_wait_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> lost_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Duration> run_ ABSL_GUARDED_BY(mutex_);  // once the guest runs here
  MonotonicTime runs_since_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfiniteFuture();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_ARRIVAL_SHARED_H_
