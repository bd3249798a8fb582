#include "migration/sending/mirror_job.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// A larger write is copied by chunks, some of which others may copy with it.
constexpr uint64_t kMostAlone = 64 << 10;

}  // namespace

MirrorJob::MirrorJob(std::unique_ptr<DirtyChunks> chunks, uint32_t block_bytes, const MirrorOptions& options,
                     Listener& listener)
    : options_(options),
      listener_(listener),
      chunks_(std::move(chunks)),
      held_(*chunks_, block_bytes, kMostAlone),
      limiter_(options.max_bandwidth),
      copy_mode_(options.copy_mode),
      max_bandwidth_(options.max_bandwidth),
      may_turn_(options.turn_write_blocking) {
  // A turn may take twice what is held: others write meanwhile.
  answers_.reserve(2 * HeldWrites::kMost);
}

absl::Status MirrorJob::MakeCopier(BlockIo& source, BlockIo& target) {
  FERRITE_ASSIGN_OR_RETURN(copier_, MirrorCopier::Create(source, target, *chunks_,
                                                         {.in_flight = options_.in_flight,
                                                          .buffer_bytes = options_.buffer_bytes,
                                                          .target_is_zero = options_.target_is_zero},
                                                         [this] { AskTurn(); }));
  UpdateHolding();
  Publish();
  return absl::OkStatus();
}

MirrorJob::~MirrorJob() { FERRITE_CHECK(copier_ == nullptr || idle()); }

uint64_t MirrorJob::Wrote(uint64_t offset, uint64_t bytes) {
  if (is_over_.load(std::memory_order_relaxed)) {
    return 0;
  }
  guest_writes_.fetch_add(1, std::memory_order_relaxed);
  const HeldWrites::Outcome outcome = held_.Wrote(offset, bytes);
  if (outcome.is_news) {
    AskTurn();
  }
  return outcome.ticket;
}

void MirrorJob::AskTurn() {
  if (!turn_asked_.exchange(true)) {
    listener_.TurnSoon();
  }
}

bool MirrorJob::IsAtWork() const {
  return state_ == MirrorState::kRunning || state_ == MirrorState::kReady || state_ == MirrorState::kCompleting;
}

absl::Status MirrorJob::Refusal(absl::string_view what) const {
  return absl::FailedPreconditionError(absl::StrCat(what, ": the mirror is ", MirrorStateName(state_)));
}

void MirrorJob::SetState(MirrorState state) {
  state_ = state;
  is_over_.store(IsOver(), std::memory_order_relaxed);
  UpdateHolding();
  Publish();
  AskTurn();
}

void MirrorJob::UpdateHolding() {
  const bool holds = copy_mode_ == CopyMode::kWriteBlocking && IsAtWork() && now_ >= retry_at() && !is_late_;
  if (holds && !holds_) {
    held_.Hold();
  } else if (!holds && holds_) {
    held_.LetGo(answers_);
  }
  holds_ = holds;
}

void MirrorJob::SendAnswers() {
  for (const uint64_t ticket : answers_) {
    listener_.Answer(ticket);
  }
  answers_.clear();
}

absl::Status MirrorJob::Pause() {
  if (state_ != MirrorState::kRunning && state_ != MirrorState::kReady) {
    return Refusal("pause");
  }
  SetState(MirrorState::kPaused);
  SendAnswers();
  return absl::OkStatus();
}

absl::Status MirrorJob::Resume() {
  if (state_ != MirrorState::kPaused) {
    return Refusal("resume");
  }
  cause_ = absl::OkStatus();
  was_futile_ = false;
  judged_at_ = now_;
  SetState(is_draining_ ? MirrorState::kCompleting : MirrorState::kRunning);
  return absl::OkStatus();
}

void MirrorJob::SetMaxBandwidth(uint64_t bytes_per_second) {
  max_bandwidth_ = bytes_per_second;
  limiter_.SetRate(bytes_per_second);
  AskTurn();
}

void MirrorJob::SetCopyMode(CopyMode mode) {
  copy_mode_ = mode;
  if (mode == CopyMode::kBackground) {
    may_turn_ = false;
  }
  UpdateHolding();
  Publish();
  SendAnswers();
  AskTurn();
}

absl::Status MirrorJob::Drain() {
  if (state_ != MirrorState::kReady) {
    return Refusal("complete");
  }
  if (chunks_->Count().failed > 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("complete: some of what is left could not be copied, and is tried again",
                     ignored_.ok() ? "" : ": ", ignored_.message()));
  }
  is_draining_ = true;
  SetState(MirrorState::kCompleting);
  return absl::OkStatus();
}

absl::Status MirrorJob::WithdrawDrain() {
  if (!is_draining_ || IsOver()) {
    return Refusal("go on");
  }
  EndDrain();
  return absl::OkStatus();
}

void MirrorJob::EndDrain() {
  is_draining_ = false;
  flush_counts_ = false;
  if (state_ == MirrorState::kCompleting) {
    SetState(MirrorState::kReady);
  }
}

absl::Status MirrorJob::Cancel() {
  if (IsOver()) {
    return Refusal("cancel");
  }
  SetState(MirrorState::kCancelled);
  SendAnswers();
  return absl::OkStatus();
}

void MirrorJob::Publish() {
  const absl::MutexLock lock(&mutex_);
  told_.state = state_;
  told_.copy_mode = copy_mode_;
  told_.totals = copier_->totals();
  told_.errors = errors_;
  told_.cause = cause_;
  told_.ignored = ignored_;
  told_.has_begun = has_begun_;
  told_.started_at = started_at_;
  told_.ready_at = ready_at_;
  if (IsOver() && told_.over_at == MonotonicTime::InfiniteFuture()) {
    told_.over_at = now_;
  }
}

MirrorFigures MirrorJob::figures(MonotonicTime now) const {
  MirrorFigures figures;
  figures.total_bytes = chunks_->bytes();
  const DirtyChunks::Bytes bytes = chunks_->Count();
  figures.dirty_bytes = bytes.dirty;
  figures.in_flight_bytes = bytes.in_flight;
  figures.done_bytes = figures.total_bytes - bytes.dirty - bytes.in_flight;
  figures.held_writes = held_.held_in_all();
  const absl::MutexLock lock(&mutex_);
  const MirrorMeasures measures = {.remaining_bytes = bytes.dirty + bytes.in_flight,
                                   .copied_bytes = told_.totals.copied,
                                   .possible_rate = rates_.possible(),
                                   .failing = bytes.failed > 0};
  figures.drain_time = TimeToDrain(measures);
  figures.fits_downtime = FitsDowntime(measures, options_.downtime_limit);
  figures.state = told_.state;
  figures.copy_mode = told_.copy_mode;
  figures.copied_bytes = told_.totals.copied;
  figures.zero_bytes = told_.totals.zero;
  figures.again_bytes = told_.totals.again;
  figures.errors = told_.errors;
  figures.cause = std::string((told_.cause.ok() && measures.failing ? told_.ignored : told_.cause).message());
  if (told_.has_begun) {
    figures.rate = rates_.copied(now);
    figures.dirty_rate = rates_.dirtied(now);
    figures.took = std::min(now, told_.over_at) - told_.started_at;
    if (told_.ready_at != MonotonicTime::InfinitePast()) {
      figures.ready_after = told_.ready_at - told_.started_at;
    }
  }
  return figures;
}

}  // namespace ferrite::migration
