// The end of a mirror: what comes before the standstill, the standstill, and what is left of it.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "vmm/mirror/mirror_job.h"

namespace ferrite {

using migration::Mirror;
using migration::MirrorState;

namespace {

// A flush that took no longer has left nothing that would hold up the next one.
constexpr absl::Duration kShortWriteOut = absl::Milliseconds(100);
// Where a guest writes so much that none is short, the last one is not either.
constexpr int kMostWriteOuts = 3;
// What quiescing the disk may bring beside what fitted.
constexpr absl::Duration kStandstillSlack = absl::Milliseconds(200);
// What is left has become less, of what it was.
constexpr double kProgress = 0.99;

}  // namespace

void MirrorJob::Follow(MirrorState state) {
  const bool is_ready = state == MirrorState::kReady;
  if (is_ready && !std::exchange(was_ready_, true)) {
    // Most of what was copied is in the host's page cache: here nobody waits for it. Whoever completes waits for the
    // same again, and what came since is little then.
    BeginWriteOut();
  }
  was_ready_ = is_ready;
  if (is_ready && request_.auto_complete && !closing_.has_value() && MonotonicTime::Now() >= next_try_) {
    BeginClosing(/*keep_copy=*/false, nullptr);
  }
  if (closing_.has_value()) {
    Close();
  }
}

void MirrorJob::BeginWriteOut() {
  {
    const TimedMutexLock lock(&mutex_);
    if (is_writing_out_) {
      return;
    }
    is_writing_out_ = true;
  }
  write_out_began_ = MonotonicTime::Now();
  auto thread = Thread::Start("mirror-flush", [this] {
    const absl::Status written = CatchOutOfMemory([this] { return target_->WriteOut(); });
    const TimedMutexLock lock(&mutex_);
    written_out_ = written;
    is_writing_out_ = false;
    changed_ = true;
  });
  if (thread.ok()) {
    write_out_ = *std::move(thread);  // the last one is joined
    return;
  }
  // The last flush has it to do.
  IfThereIsMemory([&] { Log().warn("mirror of {}: {}", request_.disk, std::string(thread.status().message())); });
  const TimedMutexLock lock(&mutex_);
  is_writing_out_ = false;
}

absl::Status MirrorJob::CheckCanClose(bool keep_copy) const {
  if (!keep_copy) {
    FERRITE_RETURN_IF_ERROR(target_->CheckCanBeDisk());
  }
  if (closing_.has_value()) {
    return absl::FailedPreconditionError(absl::StrCat("the mirror of ", request_.disk, " is being completed already"));
  }
  // The disk stands still for nothing else.
  const MirrorStatus now = status();
  if (now.figures.state != MirrorState::kReady) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the mirror of ", request_.disk, " is not ready: it is ", migration::MirrorStateName(now.figures.state), ", ",
        now.figures.dirty_bytes, " bytes are left", now.figures.cause.empty() ? "" : "; ", now.figures.cause));
  }
  return absl::OkStatus();
}

void MirrorJob::BeginClosing(bool keep_copy, Done done) {
  closing_.emplace(keep_copy, std::move(done));
  is_closing_ = true;
  const TimedMutexLock lock(&mutex_);
  changed_ = true;
}

void MirrorJob::EndClosing(const absl::Status& result) {
  if (!closing_.has_value()) {
    return;
  }
  const Done done = std::move(closing_->done);
  const absl::Duration stood_still = closing_->stood_still;
  closing_.reset();
  is_closing_ = false;
  next_try_ = MonotonicTime::Now() + std::max(kNextTry, kNextTryParts * stood_still);
  if (done) {
    done(result);
  } else if (!result.ok()) {
    IfThereIsMemory([&] { Log().warn("mirror of {}: {}", request_.disk, std::string(result.message())); });
  }
}

bool MirrorJob::Fits() {
  {
    const TimedMutexLock lock(&mutex_);
    if (seen_.fits) {
      return true;
    }
  }
  return mirror_->figures(MonotonicTime::Now()).fits_downtime;
}

void MirrorJob::Close() {
  Closing& closing = *closing_;
  const MonotonicTime now = MonotonicTime::Now();
  const migration::MirrorFigures figures = mirror_->figures(now);
  if (figures.state != MirrorState::kReady) {
    EndClosing(absl::FailedPreconditionError(absl::StrCat(
        "the mirror of ", request_.disk, " is ", migration::MirrorStateName(figures.state),
        " before what is left fits the downtime limit", figures.cause.empty() ? "" : ": ", figures.cause)));
    return;
  }
  {
    const TimedMutexLock lock(&mutex_);
    if (is_writing_out_) {
      closing.least_at = now;
      return;
    }
  }
  if (closing.write_outs > 0 && now - write_out_began_ <= kShortWriteOut) {
    closing.is_written_out = true;
  }
  if (!closing.is_written_out && closing.write_outs < kMostWriteOuts) {
    ++closing.write_outs;
    BeginWriteOut();
    return;
  }
  const uint64_t left = figures.dirty_bytes + figures.in_flight_bytes;
  if (static_cast<double>(left) <= kProgress * static_cast<double>(closing.least_left)) {
    closing.least_left = left;
    closing.least_at = now;
  }
  bool fitted = false;
  if (Fits()) {
    fitted = true;
    const absl::Status result = CatchOutOfMemory([&] { return closing.keep_copy ? KeepCopy(fitted) : Pivot(fitted); });
    if (fitted) {
      EndClosing(result);
      return;
    }
  }
  if (now - closing.least_at > kMostInVain) {
    if (!figures.cause.empty()) {
      EndClosing(absl::FailedPreconditionError(
          absl::StrCat("what is left cannot be copied: ", left, " bytes; ", figures.cause, "; the mirror goes on")));
      return;
    }
    EndClosing(absl::DeadlineExceededError(
        absl::StrCat("what is left does not fit the downtime limit, and gets no less: ", left, " bytes, ",
                     static_cast<uint64_t>(figures.rate), " bytes/s are copied and ",
                     static_cast<uint64_t>(figures.dirty_rate), " bytes/s written; the mirror goes on")));
  }
}

absl::Status MirrorJob::AwaitCopied() {
  const auto copied = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ending_ || seen_.state != MirrorState::kCompleting;
  };
  MirrorState state = MirrorState::kCompleting;
  {
    const TimedMutexLock lock(&mutex_);
    mutex_.AwaitFor(absl::Condition(&copied), kMostStandstill);
    state = seen_.state;
  }
  if (state == MirrorState::kCompleted) {
    return absl::OkStatus();
  }
  std::string cause;
  const absl::Status withdrawn = OnMirror([&](Mirror& mirror) {
    const migration::MirrorFigures figures = mirror.figures(MonotonicTime::Now());
    cause = figures.cause;
    state = figures.state;
    if (state == MirrorState::kCompleted) {
      return absl::OkStatus();
    }
    return mirror.WithdrawDrain();
  });
  if (state == MirrorState::kCompleted) {
    return absl::OkStatus();
  }
  if (!cause.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("the rest could not be copied: ", cause));
  }
  if (!withdrawn.ok()) {
    return state == MirrorState::kReady
               ? absl::FailedPreconditionError("an error came while the rest was copied, and was ignored")
               : withdrawn;
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the rest was not copied within ", absl::FormatDuration(kMostStandstill), " of standstill"));
}

absl::Status MirrorJob::Equalize(bool& fitted, absl::FunctionRef<absl::Status()> whole) {
  const MonotonicTime begin = MonotonicTime::Now();
  const absl::Status result = disks_.AtStandstill(request_.disk, [&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(OnMirror([&](Mirror& mirror) {
      // What was written since it was seen to fit.
      const migration::MirrorFigures figures = mirror.figures(MonotonicTime::Now());
      fitted = figures.fits_downtime || figures.drain_time <= request_.options.downtime_limit + kStandstillSlack;
      return fitted ? mirror.Drain() : absl::OkStatus();
    }));
    if (!fitted) {
      return absl::OkStatus();
    }
    FERRITE_RETURN_IF_ERROR(AwaitCopied());
    return whole();
  });
  const absl::Duration stood_still = MonotonicTime::Now() - begin;
  closing_->stood_still += stood_still;
  const TimedMutexLock lock(&mutex_);
  status_.standstill = stood_still;
  return result;
}

absl::Status MirrorJob::Pivot(bool& fitted) {
  std::unique_ptr<DiskImage> old;
  bool copied = false;
  bool marked = false;
  const absl::Status status = Equalize(fitted, [&]() -> absl::Status {
    copied = true;
    // Before the machine writes to it: whoever finds it whole then has all that was written.
    FERRITE_RETURN_IF_ERROR(target_->MarkComplete());
    marked = true;
    FERRITE_ASSIGN_OR_RETURN(auto image, target_->TakeImage());
    FERRITE_ASSIGN_OR_RETURN(old, disks_.ReplaceImage(request_.disk, std::move(image)));
    return absl::OkStatus();
  });
  if (!fitted) {
    return status;
  }
  if (status.ok()) {
    if (const absl::Status released = old->Release(); !released.ok()) {
      // Nobody needs it: all is at the target.
      IfThereIsMemory([&] { Log().warn("mirror: {}", std::string(released.message())); });
    }
    Finish(absl::OkStatus(), MirrorEnd::kDisk);
  } else if (marked) {
    // The target is whole, and closed: it goes on no more.
    Finish(status, MirrorEnd::kKept);
  } else if (copied) {
    // Nothing is followed any more.
    GiveUp(status);
  }
  return status;
}

absl::Status MirrorJob::KeepCopy(bool& fitted) {
  bool copied = false;
  const absl::Status status = Equalize(fitted, [&] {
    copied = true;
    return target_->MarkComplete();
  });
  if (!fitted) {
    return status;
  }
  if (status.ok()) {
    Finish(absl::OkStatus(), MirrorEnd::kKept);
  } else if (copied) {
    // Whether its mark is gone, and that on the disk, is not known.
    GiveUp(status);
  }
  return status;
}

void MirrorJob::EndCopying() {
  if (mirror_ == nullptr) {
    return;
  }
  if (alarm_watch_ == nullptr) {
    // Not begun. Nobody looks at it on its thread any more.
    turn_watch_.reset();
    const TimedMutexLock lock(&mutex_);
    mirror_.reset();
    return;
  }
  (void)OnMirror([](Mirror& mirror) { return mirror.Cancel(); });
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return seen_.ended && !is_writing_out_; };
  bool ended = false;
  {
    const TimedMutexLock lock(&mutex_);
    ended = mutex_.AwaitFor(absl::Condition(&idle), kLastOperations);
  }
  if (!ended) {
    target_->CutOff();
    const TimedMutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&idle));
  }
  write_out_.Join();
  bool is_told = false;
  {
    const TimedMutexLock lock(&mutex_);
    is_told = is_told_;
  }
  if (is_told) {
    if (const absl::Status status = disks_.SetWitness(request_.disk, nullptr); !status.ok()) {
      IfThereIsMemory([&] { Log().warn("mirror: {}", std::string(status.message())); });
    }
  }
  const migration::MirrorFigures last = mirror_->figures(MonotonicTime::Now());
  UntilThereIsMemory([&] {
    loop_->RunAndWait([&] {
      const TimedMutexLock lock(&mutex_);
      status_.figures = last;
      mirror_.reset();
    });
  });
  turn_watch_.reset();
  alarm_watch_.reset();
  source_.reset();
}

void MirrorJob::Finish(const absl::Status& result, MirrorEnd end) {
  EndCopying();
  target_.reset();
  const TimedMutexLock lock(&mutex_);
  status_.result = result;
  status_.end = end;
  if (!result.ok() && !absl::IsCancelled(result)) {
    status_.figures.state = MirrorState::kFailed;
  }
  status_.over = true;
}

void MirrorJob::GiveUp(const absl::Status& why) {
  if (IsFinished()) {
    return;
  }
  EndCopying();
  bool is_told = false;
  {
    const TimedMutexLock lock(&mutex_);
    is_told = is_told_;
  }
  MirrorEnd end = MirrorEnd::kRemoved;
  if (target_ != nullptr) {
    // Of one that did not begin nothing was written.
    const absl::Status removed = is_told ? target_->Remove() : target_->RemoveUntouched();
    if (!removed.ok()) {
      IfThereIsMemory([&] { Log().warn("mirror: {}", std::string(removed.message())); });
    }
    end = removed.ok() && target_->made_here() ? MirrorEnd::kRemoved : MirrorEnd::kLeft;
  }
  Finish(why, end);
}

}  // namespace ferrite
