// A turn of a mirror: what ended is taken in, what it leads to is decided, and what may be started is.
#include <algorithm>

#include "migration/sending/mirror_job.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kJudgeEach = absl::Seconds(1);
// In which writes come together before they are copied, when hardly anything is left: a guest that writes the same
// chunk again and again costs one copy in that time.
constexpr absl::Duration kCalmPass = absl::Milliseconds(20);
// Of the downtime limit: what takes no longer is hardly anything.
constexpr int kCalmPart = 4;
// Of a turn that finds holes and needs no operation for them: others have their turn, too.
constexpr int kMostSteps = 256;
// Of what the rate limit allows in a second, one operation has no more.
constexpr uint64_t kLimitedParts = 10;
// A server that says nothing holds the guest's writes no longer: the guest's own limits begin at some seconds.
constexpr absl::Duration kMostHeld = absl::Seconds(2);
// Of operations and buffer: what background copying leaves to writes that are held.
constexpr uint32_t kSparePart = 4;

}  // namespace

MonotonicTime MirrorJob::Turn(MonotonicTime now) {
  turn_asked_.store(false);
  if (!has_begun_) {
    has_begun_ = true;
    started_at_ = judged_at_ = now_ = now;
  }
  if (copier_->busy() > 0) {
    busy_time_ += now - now_;
  }
  now_ = now;
  copier_->TakeEnds(*this, now_);
  limiter_.Correct(-static_cast<int64_t>(copier_->TakeUncharged()));
  Decide();
  JudgeHeld();
  UpdateHolding();
  MonotonicTime next = MonotonicTime::InfiniteFuture();
  if (IsAtWork()) {
    next = Start();
    CompleteIfClean();
  }
  copier_->Kick();
  held_.TakeCopied(answers_);
  Publish();
  SendAnswers();
  return IsAtWork() ? std::min(next, held_.See(now_) + kMostHeld) : MonotonicTime::InfiniteFuture();
}

void MirrorJob::Decide() {
  const DirtyChunks::Bytes bytes = chunks_->Count();
  const MirrorCopier::Totals& totals = copier_->totals();
  MirrorMeasures measures{.remaining_bytes = bytes.dirty + bytes.in_flight,
                          .copied_bytes = totals.copied,
                          .max_bandwidth = max_bandwidth_,
                          .first_pass = is_first_pass_,
                          .failing = bytes.failed > 0};
  {
    const absl::MutexLock lock(&mutex_);
    rates_.Note(
        {.copied = totals.copied, .data = totals.copied - totals.zero, .dirtied = bytes.dirtied, .busy = busy_time_},
        now_);
    measures.possible_rate = rates_.possible();
    measures.dirty_rate = rates_.dirtied(now_);
  }
  if (state_ == MirrorState::kRunning && FitsDowntime(measures, options_.downtime_limit)) {
    if (ready_at_ == MonotonicTime::InfinitePast()) {
      ready_at_ = now_;
    }
    SetState(MirrorState::kReady);
  }
  is_calm_ = state_ == MirrorState::kReady && TimeToDrain(measures) <= options_.downtime_limit / kCalmPart;
  if (now_ - judged_at_ < kJudgeEach) {
    return;
  }
  const bool is_futile = IsAtWork() && !is_draining_ && IsFutile(measures, options_.downtime_limit);
  if (is_futile && was_futile_ && may_turn_ && copy_mode_ == CopyMode::kBackground) {
    copy_mode_ = CopyMode::kWriteBlocking;
  }
  was_futile_ = is_futile;
  judged_at_ = now_;
}

void MirrorJob::JudgeHeld() {
  if (now_ < held_.See(now_) + kMostHeld) {
    return;
  }
  // What ended just now, in a turn that comes late, waits no more.
  held_.TakeCopied(answers_);
  is_late_ = now_ >= held_.See(now_) + kMostHeld;
}

MonotonicTime MirrorJob::retry_at() const { return std::max(source_backoff_.retry_at(), target_backoff_.retry_at()); }

MonotonicTime MirrorJob::Start() {
  if (now_ < retry_at()) {
    return retry_at();
  }
  // What is copied now would need another flush.
  if (is_flushing_ && flush_counts_) {
    return MonotonicTime::InfiniteFuture();
  }
  StartHeld();
  return StartBackground();
}

void MirrorJob::StartHeld() {
  for (size_t index = 0;; ++index) {
    const std::optional<HeldWrites::Wanted> wanted = held_.Get(index);
    if (!wanted.has_value()) {
      return;
    }
    if (wanted->is_alone) {
      if (wanted->is_started) {
        continue;
      }
      if (!copier_->StartAlone(wanted->run, wanted->offset, wanted->bytes, wanted->ticket)) {
        return;
      }
      held_.Start(index);
      continue;
    }
    MirrorCopier::Started started;
    do {
      started = copier_->StartDirty({.from = wanted->first,
                                     .end = wanted->end,
                                     .most_bytes = copier_->most_bytes(),
                                     .last_ticket = held_.last_ticket()});
      if (started.what == MirrorCopier::Started::What::kNoRoom) {
        return;
      }
    } while (started.what != MirrorCopier::Started::What::kNothing);
  }
}

MonotonicTime MirrorJob::StartBackground() {
  using What = MirrorCopier::Started::What;
  const bool is_limited = max_bandwidth_ != 0 && !is_draining_;
  const bool spares = copy_mode_ == CopyMode::kWriteBlocking && !is_draining_;
  MirrorCopier::Wish wish{.end = chunks_->chunks(),
                          .most_bytes = is_limited ? std::min(copier_->most_bytes(), max_bandwidth_ / kLimitedParts)
                                                   : copier_->most_bytes(),
                          .spare_operations = spares ? (options_.in_flight + kSparePart - 1) / kSparePart : 0,
                          .spare_bytes = spares ? copier_->buffer_bytes() / kSparePart : 0,
                          .is_charged = is_limited,
                          .is_paced = !is_draining_,
                          .guest_writes = guest_writes_.load(std::memory_order_relaxed),
                          .now = now_};
  for (int step = 0; step < kMostSteps; ++step) {
    if (is_limited && limiter_.DelayAt(now_) > absl::ZeroDuration()) {
      return now_ + limiter_.DelayAt(now_);
    }
    if (cursor_ == 0 && is_calm_ && now_ < pass_began_ + kCalmPass) {
      return chunks_->FindDirty(0, wish.end).has_value() ? pass_began_ + kCalmPass : MonotonicTime::InfiniteFuture();
    }
    wish.from = cursor_;
    wish.last_ticket = held_.last_ticket();
    const MirrorCopier::Started started = copier_->StartDirty(wish);
    if (started.what == What::kNoRoom) {
      return MonotonicTime::InfiniteFuture();
    }
    if (started.what == What::kNothing) {
      if (cursor_ == 0) {
        return MonotonicTime::InfiniteFuture();
      }
      cursor_ = 0;
      is_first_pass_ = false;
      copier_->ForgetExtents();
      continue;
    }
    if (cursor_ == 0) {
      pass_began_ = now_;
    }
    if (is_limited && started.what == What::kRead) {
      (void)limiter_.Take(started.read_bytes, now_);
    }
    cursor_ = started.end;
  }
  return now_;
}

void MirrorJob::CompleteIfClean() {
  if (state_ == MirrorState::kCompleting && !is_flushing_ && now_ >= retry_at() &&
      chunks_->FindUnclean(0, chunks_->chunks()) == chunks_->chunks()) {
    is_flushing_ = flush_counts_ = copier_->StartFlush();
  }
}

void MirrorJob::Flushed() {
  is_flushing_ = false;
  // What was written meanwhile, against the rules, is copied first, and flushed.
  if (state_ == MirrorState::kCompleting && flush_counts_ &&
      chunks_->FindUnclean(0, chunks_->chunks()) == chunks_->chunks()) {
    SetState(MirrorState::kCompleted);
  }
}

void MirrorJob::Succeeded(MirrorCopier::Side side) {
  if (side == MirrorCopier::Side::kSource) {
    source_backoff_.Succeeded();
    return;
  }
  target_backoff_.Succeeded();
  is_late_ = false;
}

void MirrorJob::Failed(MirrorCopier::Side side, const absl::Status& error) {
  const bool is_source = side == MirrorCopier::Side::kSource;
  ++errors_;
  if (IsOver()) {
    return;
  }
  const bool is_lost = !is_source && absl::IsUnavailable(error);
  switch (is_lost ? ErrorAction::kFail
                  : ActionFor(is_source ? options_.on_source_error : options_.on_target_error, error)) {
    case ErrorAction::kWait:
      (is_source ? source_backoff_ : target_backoff_).Failed(now_);
      ignored_ = error;
      // Nobody stands still for what is tried again later.
      EndDrain();
      UpdateHolding();
      break;
    case ErrorAction::kStop:
      if (cause_.ok()) {
        cause_ = error;
      }
      SetState(MirrorState::kPaused);
      break;
    case ErrorAction::kFail:
      Fail(error);
      break;
  }
}

void MirrorJob::FlushFailed(const absl::Status& error) {
  is_flushing_ = false;
  ++errors_;
  // Linux tells a file of an error of its writeback once, and takes the pages for clean: the next flush would succeed
  // and say nothing of what is lost.
  if (!IsOver()) {
    Fail(error);
  }
}

void MirrorJob::Fail(const absl::Status& error) {
  error_ = cause_ = error;
  SetState(MirrorState::kFailed);
}

}  // namespace ferrite::migration
