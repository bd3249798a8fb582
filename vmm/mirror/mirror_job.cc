#include "vmm/mirror/mirror_job.h"

#include <fcntl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "devices/block/disk_image.h"
#include "vmm/mirror/file_blocks.h"

namespace ferrite {

using migration::Mirror;
using migration::MirrorState;

namespace {

absl::Status IsOver(const MirrorStatus& mirror) {
  return absl::FailedPreconditionError(absl::StrCat("the mirror of ", mirror.disk, " to ", mirror.target,
                                                    " is over: ", migration::MirrorStateName(mirror.figures.state)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MirrorJob>> MirrorJob::Start(MachineDisks& disks, const MirrorRequest& request,
                                                            uint64_t number, Listener listener) {
  FERRITE_ASSIGN_OR_RETURN(EventFd turn, EventFd::Create());
  Fd alarm(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!alarm.valid()) {
    return ErrnoStatus(errno, "timerfd_create");
  }
  std::unique_ptr<MirrorJob> job(
      new MirrorJob(disks, request, number, std::move(listener), std::move(turn), std::move(alarm)));
  absl::Status begun = job->Open();
  if (begun.ok()) {
    // Before anybody is told of writes: from here on its end is this thread's affair, whatever happens.
    auto thread = Thread::Start("mirror-job", [job = job.get()] { job->Run(); });
    begun = thread.status();
    if (thread.ok()) {
      job->thread_ = *std::move(thread);
      FERRITE_RETURN_IF_ERROR(job->Begin());
      return job;
    }
  }
  UntilThereIsMemory([&] { job->GiveUp(begun); });
  return begun;
}

absl::Status MirrorJob::Begin() {
  // What was written before is in the image, and is copied with it.
  FERRITE_RETURN_IF_ERROR(disks_.SetWitness(request_.disk, this));
  const TimedMutexLock lock(&mutex_);
  is_told_ = true;
  TurnSoon();
  return absl::OkStatus();
}

MirrorJob::MirrorJob(MachineDisks& disks, const MirrorRequest& request, uint64_t number, Listener listener,
                     EventFd turn, Fd alarm)
    : disks_(disks),
      request_(request),
      listener_(std::move(listener)),
      turn_(std::move(turn)),
      alarm_(std::move(alarm)) {
  const TimedMutexLock lock(&mutex_);
  status_.number = number;
  status_.disk = request.disk;
  status_.target = request.target;
  status_.auto_complete = request.auto_complete;
}

MirrorJob::~MirrorJob() {
  BeginEnd();
  thread_.Join();
}

absl::Status MirrorJob::Open() {
  FERRITE_RETURN_IF_ERROR(migration::CheckMirrorOptions(request_.options));
  FERRITE_ASSIGN_OR_RETURN(loop_, EventLoop::Create("mirror"));
  Fd image;
  std::string path;
  uint64_t bytes = 0;
  FERRITE_RETURN_IF_ERROR(disks_.WithImage(request_.disk, [&](const DiskImage& disk) -> absl::Status {
    if (disk.read_only()) {
      // Nobody writes to it: cp(1) does as well, and other readers may have it.
      return absl::FailedPreconditionError(
          absl::StrCat("disk ", request_.disk, " is read-only; a copy of its image is all that a mirror would be"));
    }
    image = Fd(fcntl(disk.fd(), F_DUPFD_CLOEXEC, 0));
    if (!image.valid()) {
      return ErrnoStatus(errno, absl::StrCat("duplicate the descriptor of ", disk.path()));
    }
    path = disk.path();
    bytes = disk.sectors() * kSectorBytes;
    return absl::OkStatus();
  }));
  FERRITE_ASSIGN_OR_RETURN(target_, MirrorTarget::Open({.where = request_.target,
                                                        .existing = request_.existing,
                                                        .bytes = bytes,
                                                        .depth = request_.options.in_flight,
                                                        .source_fd = image.get()},
                                                       *loop_));
  if (request_.auto_complete) {
    FERRITE_RETURN_IF_ERROR(target_->CheckCanBeDisk());
  }
  FERRITE_ASSIGN_OR_RETURN(
      source_, MakeFileBlocks(std::move(path), std::move(image), bytes, *loop_, request_.options.in_flight));
  migration::MirrorOptions options = request_.options;
  options.target_is_zero = target_->is_zero();
  FERRITE_ASSIGN_OR_RETURN(mirror_, Mirror::Create(*source_, target_->blocks(), options, *this));
  {
    const TimedMutexLock lock(&mutex_);
    status_.what = target_->Describe();
    seen_.mode = options.copy_mode;
    published_ = seen_;
  }
  FERRITE_ASSIGN_OR_RETURN(turn_watch_, loop_->WatchReadable(turn_.fd(), [this] {
    turn_.Drain();
    Turn();
  }));
  FERRITE_ASSIGN_OR_RETURN(alarm_watch_, loop_->WatchReadable(alarm_.get(), [this] {
    uint64_t expired = 0;
    (void)!read(alarm_.get(), &expired, sizeof(expired));
    Turn();
  }));
  return absl::OkStatus();
}

void MirrorJob::Turn() {
  if (mirror_ == nullptr) {
    return;
  }
  SetAlarm(mirror_->Turn(MonotonicTime::Now()));
  const Seen seen = {.state = mirror_->state(),
                     .mode = mirror_->copy_mode(),
                     .ended = migration::IsFinal(mirror_->state()) && mirror_->idle()};
  // Each time that the mutex is given up wakes who waits: that is for news alone.
  if (seen != published_) {
    published_ = seen;
    const TimedMutexLock lock(&mutex_);
    seen_ = seen;
    changed_ = true;
  }
}

void MirrorJob::SetAlarm(MonotonicTime at) const {
  itimerspec alarm = {};  // none
  if (at < MonotonicTime::InfiniteFuture()) {
    // Zero would be none as well.
    alarm.it_value = absl::ToTimespec(std::max(at.since_origin(), absl::Nanoseconds(1)));
  }
  (void)timerfd_settime(alarm_.get(), TFD_TIMER_ABSTIME, &alarm, nullptr);
}

absl::Status MirrorJob::OnMirror(absl::FunctionRef<absl::Status(Mirror&)> call) {
  absl::Status result;
  UntilThereIsMemory([&] { loop_->RunAndWait([&] { result = call(*mirror_); }); });
  TurnSoon();
  return result;
}

MirrorStatus MirrorJob::status() const {
  const TimedMutexLock lock(&mutex_);
  MirrorStatus status = status_;
  if (mirror_ != nullptr && !status.over) {
    status.figures = mirror_->figures(MonotonicTime::Now());
  }
  return status;
}

void MirrorJob::Run() {
  bool on = true;
  MonotonicTime next_try = MonotonicTime::InfinitePast();
  while (on) {
    Wish wish;
    bool ending = false;
    MirrorState state = MirrorState::kRunning;
    {
      const auto news = [this]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || changed_ || wish_ != nullptr; };
      const TimedMutexLock lock(&mutex_);
      mutex_.AwaitFor(absl::Condition(&news), kTick);
      ending = ending_;
      wish = std::exchange(wish_, nullptr);
      changed_ = false;
      state = seen_.state;
    }
    if (wish != nullptr) {
      const absl::Status granted = CatchOutOfMemory(wish);
      const TimedMutexLock lock(&mutex_);
      granted_ = granted;
      wished_ = false;
    } else if (ending) {
      UntilThereIsMemory([this] { GiveUp(absl::CancelledError("the machine's monitor ended it")); });
    } else if (state == MirrorState::kFailed) {
      absl::Status error;
      (void)OnMirror([&error](Mirror& mirror) {
        error = mirror.error();
        return absl::OkStatus();
      });
      UntilThereIsMemory([&] { GiveUp(error); });
    } else if (state == MirrorState::kReady && request_.auto_complete && MonotonicTime::Now() >= next_try) {
      Tell();
      // Where that fails the mirror goes on, or waits for somebody; or it is over.
      if (const absl::Status status = CatchOutOfMemory([this] { return Pivot(); }); !status.ok()) {
        next_try = MonotonicTime::Now() + kNextTry;
        IfThereIsMemory([&] { Log().warn("mirror of {}: {}", request_.disk, std::string(status.message())); });
      }
    } else {
      Tell();
    }
    const TimedMutexLock lock(&mutex_);
    on = !status_.over;
  }
  {
    const TimedMutexLock lock(&mutex_);
    gone_ = true;
  }
  Tell();
}

void MirrorJob::Tell() {
  {
    const TimedMutexLock lock(&mutex_);
    if (!is_told_) {
      return;  // it did not begin
    }
  }
  IfThereIsMemory([this] { listener_(status()); });
}

absl::Status MirrorJob::Ask(Wish wish) {
  const auto my_turn = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return gone_ || (!asking_ && !wished_); };
  const auto done = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !wished_ || gone_; };
  const absl::Status not_yet = absl::DeadlineExceededError(
      absl::StrCat("that is not done yet; it goes on, and `--status` tells how (disk ", request_.disk, ")"));
  const MonotonicTime deadline = MonotonicTime::Now() + kMostPatience;
  const TimedMutexLock lock(&mutex_);
  if (!mutex_.AwaitFor(absl::Condition(&my_turn), kMostPatience)) {
    return not_yet;
  }
  if (status_.over) {
    return IsOver(status_);
  }
  if (ending_) {
    return absl::UnavailableError("this machine's monitor is ending");
  }
  asking_ = true;
  wished_ = true;
  wish_ = std::move(wish);
  const bool is_done = mutex_.AwaitFor(absl::Condition(&done), deadline - MonotonicTime::Now());
  asking_ = false;
  if (!is_done) {
    return not_yet;
  }
  // It may have ended before it looked.
  return std::exchange(wished_, false) ? IsOver(status_) : granted_;
}

absl::Status MirrorJob::Complete() {
  return Ask([this] { return Pivot(); });
}

absl::Status MirrorJob::Cancel(bool keep_copy) {
  return Ask([this, keep_copy] {
    if (keep_copy) {
      return KeepCopy();
    }
    GiveUp(absl::CancelledError("it was cancelled"));
    return absl::OkStatus();
  });
}

absl::Status MirrorJob::Pause() {
  return Ask([this] { return OnMirror([](Mirror& mirror) { return mirror.Pause(); }); });
}

absl::Status MirrorJob::Resume() {
  return Ask([this] { return OnMirror([](Mirror& mirror) { return mirror.Resume(); }); });
}

absl::Status MirrorJob::SetMaxBandwidth(uint64_t bytes_per_second) {
  return Ask([this, bytes_per_second] {
    return OnMirror([bytes_per_second](Mirror& mirror) {
      mirror.SetMaxBandwidth(bytes_per_second);
      return absl::OkStatus();
    });
  });
}

void MirrorJob::BeginEnd() {
  const TimedMutexLock lock(&mutex_);
  ending_ = true;
}

bool MirrorJob::AwaitOver(absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(absl::Condition(&gone_), limit);
}

absl::Status MirrorJob::AwaitCopied() {
  const auto copied = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return ending_ || (seen_.state != MirrorState::kReady && seen_.state != MirrorState::kCompleting);
  };
  MirrorState state = MirrorState::kReady;
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
    return withdrawn;
  }
  return absl::DeadlineExceededError(
      absl::StrCat("the rest was not copied within ", absl::FormatDuration(kMostStandstill), " of standstill"));
}

absl::Status MirrorJob::Equalize(absl::FunctionRef<absl::Status()> whole) {
  {
    // The disk stands still for nothing else.
    const MirrorStatus now = status();
    if (now.figures.state != MirrorState::kReady) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the mirror of ", request_.disk, " is not ready: it is ", migration::MirrorStateName(now.figures.state), ", ",
          now.figures.dirty_bytes, " bytes are left", now.figures.cause.empty() ? "" : "; ", now.figures.cause));
    }
  }
  if (const absl::Status written = target_->WriteOut(); !written.ok()) {
    // What its host did not write is not known: it cannot be whole any more.
    GiveUp(written);
    return written;
  }
  {
    const TimedMutexLock lock(&mutex_);
    if (ending_) {
      return absl::UnavailableError("this machine's monitor is ending");
    }
  }
  const MonotonicTime begin = MonotonicTime::Now();
  const absl::Status result = disks_.AtStandstill(request_.disk, [&]() -> absl::Status {
    FERRITE_RETURN_IF_ERROR(OnMirror([](Mirror& mirror) { return mirror.Drain(); }));
    FERRITE_RETURN_IF_ERROR(AwaitCopied());
    return whole();
  });
  const TimedMutexLock lock(&mutex_);
  status_.standstill = MonotonicTime::Now() - begin;
  return result;
}

absl::Status MirrorJob::Pivot() {
  FERRITE_RETURN_IF_ERROR(target_->CheckCanBeDisk());
  std::unique_ptr<DiskImage> old;
  bool copied = false;
  bool marked = false;
  const absl::Status status = Equalize([&]() -> absl::Status {
    copied = true;
    // Before the machine writes to it: whoever finds it whole then has all that was written.
    FERRITE_RETURN_IF_ERROR(target_->MarkComplete());
    marked = true;
    FERRITE_ASSIGN_OR_RETURN(auto image, target_->TakeImage());
    FERRITE_ASSIGN_OR_RETURN(old, disks_.ReplaceImage(request_.disk, std::move(image)));
    return absl::OkStatus();
  });
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

absl::Status MirrorJob::KeepCopy() {
  bool copied = false;
  const absl::Status status = Equalize([&] {
    copied = true;
    return target_->MarkComplete();
  });
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
    // Not begun.
    const TimedMutexLock lock(&mutex_);
    mirror_.reset();
    return;
  }
  (void)OnMirror([](Mirror& mirror) { return mirror.Cancel(); });
  const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return seen_.ended; };
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
  {
    const TimedMutexLock lock(&mutex_);
    if (status_.over) {
      return;
    }
  }
  EndCopying();
  MirrorEnd end = MirrorEnd::kRemoved;
  if (target_ != nullptr) {
    const absl::Status removed = target_->Remove();
    if (!removed.ok()) {
      IfThereIsMemory([&] { Log().warn("mirror: {}", std::string(removed.message())); });
    }
    end = removed.ok() && target_->made_here() ? MirrorEnd::kRemoved : MirrorEnd::kLeft;
  }
  Finish(why, end);
}

}  // namespace ferrite
