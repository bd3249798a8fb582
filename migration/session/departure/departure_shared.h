// What the thread of a departure and everybody else have in common.
#ifndef FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_SHARED_H_
#define FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_SHARED_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/cancel_token.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "migration/api/move_report.h"
#include "migration/api/move_state.h"
#include "migration/sending/pending_pages.h"
#include "migration/sending/send_figures.h"

namespace ferrite::migration {

// Others say here what they want of the move, and the move what became of it.
//
// Threads: any; Tell…() that of the departure alone.
class DepartureShared {
 public:
  // `on_progress` (may be empty) is called by TellProgress(); `clock`, by which rates and times are, outlives this.
  static absl::StatusOr<std::unique_ptr<DepartureShared>> Create(const Clock& clock,
                                                                 std::function<void(const MoveProgress&)> on_progress);

  MoveStateMachine& state() { return state_; }

  // The move is to end; cancelled only by who has changed the state to cancelling.
  CancelToken& cancel() { return cancel_; }
  // The destination is not to be looked for any more.
  CancelToken& leave() { return leave_; }
  // What the destination may still need from here is given up.
  CancelToken& abandon() { return abandon_; }
  std::atomic<bool> postcopy_wanted{false};
  std::atomic<bool> postcopy_possible{false};
  // Of parts that have not begun to be sent: they are in no PendingPages yet.
  std::atomic<uint64_t> not_begun_bytes{0};
  // The destination was heard to have taken the guest.
  std::atomic<bool> ran_there{false};

  // What was sent, over all connections together.
  SendFigures& figures() { return figures_; }

  void TellWhere(std::string where);
  // Where each region begins in guest-physical memory. Once, before anybody else has this.
  void TellBases(std::vector<uint64_t> bases) { bases_ = std::move(bases); }
  // What is still to be sent, until there is another one.
  void TellPending(std::shared_ptr<const PendingPages> pending);
  // The figures of `progress` that only the departure knows. `rate_from`: since when the rate is measured; in the
  // infinite future it is the one that `progress` has.
  void TellProgress(const MoveProgress& progress, MonotonicTime rate_from);
  void TellReport(const MoveReport& report);
  // From now on the guest may run there.
  void TellGranted();

  std::string where() const;
  MoveProgress progress() const;
  MoveReport report() const;

 private:
  DepartureShared(const Clock& clock, std::function<void(const MoveProgress&)> on_progress, CancelToken cancel,
                  CancelToken leave, CancelToken abandon);

  const Clock& clock_;
  const std::function<void(const MoveProgress&)> on_progress_;
  MoveStateMachine state_;
  CancelToken cancel_;
  CancelToken leave_;
  CancelToken abandon_;
  SendFigures figures_;
  std::vector<uint64_t> bases_;
  mutable absl::Mutex mutex_;
  std::string where_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const PendingPages> pending_ ABSL_GUARDED_BY(mutex_);
  MoveProgress progress_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime rate_from_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfiniteFuture();
  uint64_t sent_before_ ABSL_GUARDED_BY(mutex_) = 0;  // at rate_from_
  MoveReport report_ ABSL_GUARDED_BY(mutex_);
  MonotonicTime granted_at_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfiniteFuture();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_DEPARTURE_DEPARTURE_SHARED_H_
