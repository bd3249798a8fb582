#include "migration/session/departure/departure_shared.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "memory/guest_address.h"

namespace ferrite::migration {
namespace {

// A rate is measured over at least this time.
constexpr absl::Duration kRateOver = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<DepartureShared>> DepartureShared::Create(
    const Clock& clock, std::function<void(const MoveProgress&)> on_progress) {
  FERRITE_ASSIGN_OR_RETURN(CancelToken cancel, CancelToken::Create());
  FERRITE_ASSIGN_OR_RETURN(CancelToken leave, CancelToken::Create());
  FERRITE_ASSIGN_OR_RETURN(CancelToken abandon, CancelToken::Create());
  return std::unique_ptr<DepartureShared>(
      new DepartureShared(clock, std::move(on_progress), std::move(cancel), std::move(leave), std::move(abandon)));
}

DepartureShared::DepartureShared(const Clock& clock, std::function<void(const MoveProgress&)> on_progress,
                                 CancelToken cancel, CancelToken leave, CancelToken abandon)
    : clock_(clock),
      on_progress_(std::move(on_progress)),
      cancel_(std::move(cancel)),
      leave_(std::move(leave)),
      abandon_(std::move(abandon)) {}

void DepartureShared::TellWhere(std::string where) {
  const absl::MutexLock lock(&mutex_);
  where_ = std::move(where);
}

void DepartureShared::TellPending(std::shared_ptr<const PendingPages> pending) {
  const absl::MutexLock lock(&mutex_);
  pending_.swap(pending);
}

void DepartureShared::TellProgress(const MoveProgress& progress, MonotonicTime rate_from) {
  {
    const absl::MutexLock lock(&mutex_);
    progress_ = progress;
    if (rate_from_ != rate_from) {
      rate_from_ = rate_from;
      sent_before_ = figures_.bytes;
    }
  }
  if (on_progress_) {
    // A move does not end for want of words about it.
    IfThereIsMemory([this] { on_progress_(this->progress()); });
  }
}

void DepartureShared::TellReport(const MoveReport& report) {
  const absl::MutexLock lock(&mutex_);
  report_ = report;
}

void DepartureShared::TellGranted() {
  const absl::MutexLock lock(&mutex_);
  granted_at_ = clock_.Now();
}

std::string DepartureShared::where() const {
  const absl::MutexLock lock(&mutex_);
  return where_;
}

MoveProgress DepartureShared::progress() const {
  std::shared_ptr<const PendingPages> pending;
  MoveProgress progress;
  MonotonicTime rate_from;
  MonotonicTime granted_at;
  uint64_t sent_before = 0;
  {
    const absl::MutexLock lock(&mutex_);
    pending = pending_;
    progress = progress_;
    rate_from = rate_from_;
    granted_at = granted_at_;
    sent_before = sent_before_;
  }
  progress.state = state_.get();
  progress.sent_bytes = figures_.bytes;
  progress.faults = figures_.faults;
  figures_.AddTo(progress.parts);
  if (pending != nullptr && progress.state != MoveState::kCompleted) {
    progress.remaining_bytes = pending->CountPending() * kPageBytes + not_begun_bytes;
  }
  const MonotonicTime now = clock_.Now();
  progress.granted_for = std::max(now - granted_at, absl::ZeroDuration());
  if (const absl::Duration took = now - rate_from; took > kRateOver) {
    progress.rate = static_cast<double>(progress.sent_bytes - sent_before) / absl::ToDoubleSeconds(took);
  }
  return progress;
}

MoveReport DepartureShared::report() const {
  MoveReport report;
  {
    const absl::MutexLock lock(&mutex_);
    report = report_;
  }
  figures_.AddTo(report);
  for (const PageRange& page : figures_.lost.Get()) {
    if (report.lost_pages++ < MoveReport::kMostLostAt) {
      report.lost_at.push_back(bases_[page.region] + page.first * kPageBytes);
    }
  }
  return report;
}

}  // namespace ferrite::migration
