#include "migration/session/arrival/arrival_shared.h"

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<ArrivalShared>> ArrivalShared::Create(const Clock& clock) {
  FERRITE_ASSIGN_OR_RETURN(CancelToken cancel, CancelToken::Create());
  FERRITE_ASSIGN_OR_RETURN(CancelToken leave, CancelToken::Create());
  return std::unique_ptr<ArrivalShared>(new ArrivalShared(clock, std::move(cancel), std::move(leave)));
}

void ArrivalShared::TellWaits(std::shared_ptr<const WaitAccounts> waits) {
  const absl::MutexLock lock(&mutex_);
  waits_ = std::move(waits);
}

void ArrivalShared::TellLoad(absl::Duration load) {
  const absl::MutexLock lock(&mutex_);
  load_ = load;
}

void ArrivalShared::TellRun(MonotonicTime start, MonotonicTime end) {
  const absl::MutexLock lock(&mutex_);
  run_ = end - start;
  runs_since_ = end;
}

void ArrivalShared::TellHostWait(absl::Duration wait) {
  const absl::MutexLock lock(&mutex_);
  host_wait_ = wait;
}

void ArrivalShared::TellEntryWait(absl::Duration wait) {
  const absl::MutexLock lock(&mutex_);
  entry_wait_ = wait;
}

void ArrivalShared::TellLost(std::vector<uint64_t> pages) {
  const absl::MutexLock lock(&mutex_);
  lost_ = std::move(pages);
}

bool ArrivalShared::HasGuest() const {
  const absl::MutexLock lock(&mutex_);
  return run_.has_value();
}

absl::Duration ArrivalShared::has_guest_for() const {
  const absl::MutexLock lock(&mutex_);
  return std::max(clock_.Now() - runs_since_, absl::ZeroDuration());
}

MoveReport ArrivalShared::report() const {
  MoveReport report;
  std::shared_ptr<const WaitAccounts> waits;
  {
    const absl::MutexLock lock(&mutex_);
    report.load = load_;
    report.run = run_.value_or(absl::ZeroDuration());
    report.destination_wait = host_wait_;
    report.entry_wait = entry_wait_;
    report.lost_pages = lost_.size();
    report.lost_at.assign(lost_.begin(),
                          lost_.begin() + static_cast<ptrdiff_t>(std::min(lost_.size(), MoveReport::kMostLostAt)));
    waits = waits_;
  }
  report.postcopy = postcopy;
  report.data_pages = figures_.pages;
  report.zero_pages = figures_.zero_pages;
  report.duplicate_pages = figures_.duplicate_pages;
  report.copied_pages = figures_.copied_pages;
  report.moved_pages = figures_.moved_pages;
  report.compacted_blocks = figures_.compacted_blocks;
  report.huge_bytes = figures_.huge_bytes;
  report.bytes = figures_.bytes;
  report.broken_channels = figures_.broken_channels;
  report.faults = figures_.faults;
  report.minor_faults = figures_.minor_faults;
  if (waits != nullptr) {
    report.waiting = waits->Figures();
  }
  return report;
}

}  // namespace ferrite::migration
