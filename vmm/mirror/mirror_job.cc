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

absl::StatusOr<std::unique_ptr<MirrorJob>> MirrorJob::Create(MachineDisks& disks, const MirrorRequest& request,
                                                             uint64_t number, Listener listener) {
  FERRITE_ASSIGN_OR_RETURN(EventFd turn, EventFd::Create());
  Fd alarm(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!alarm.valid()) {
    return ErrnoStatus(errno, "timerfd_create");
  }
  return std::unique_ptr<MirrorJob>(
      new MirrorJob(disks, request, number, std::move(listener), std::move(turn), std::move(alarm)));
}

absl::Status MirrorJob::Start(Done begun) {
  FERRITE_ASSIGN_OR_RETURN(thread_, Thread::Start("mirror-job", [this, begun = std::move(begun)] {
                             absl::Status status = CatchOutOfMemory([this] {
                               FERRITE_RETURN_IF_ERROR(Open());
                               return Begin();
                             });
                             if (!status.ok()) {
                               UntilThereIsMemory([&] { GiveUp(status); });
                             }
                             begun(status);
                             Run();
                           }));
  return absl::OkStatus();
}

absl::Status MirrorJob::Begin() {
  {
    const TimedMutexLock lock(&mutex_);
    if (ending_) {
      return absl::UnavailableError("this machine's monitor is ending");
    }
  }
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
      number_(number),
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
  Publish(is_closing_ && mirror_->figures(MonotonicTime::Now()).fits_downtime);
}

void MirrorJob::Publish(bool fits) {
  const Seen seen = {.state = mirror_->state(),
                     .mode = mirror_->copy_mode(),
                     .ended = migration::IsFinal(mirror_->state()) && mirror_->idle(),
                     .fits = fits};
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
  UntilThereIsMemory([&] {
    loop_->RunAndWait([&] {
      result = call(*mirror_);
      Publish(published_.fits);
    });
  });
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

bool MirrorJob::IsFinished() const {
  const TimedMutexLock lock(&mutex_);
  return status_.over;
}

void MirrorJob::Run() {
  while (!IsFinished()) {
    std::optional<Wish> wish;
    bool ending = false;
    MirrorState state = MirrorState::kRunning;
    absl::Status written_out;
    {
      const auto news = [this]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ending_ || changed_ || !wishes_.empty(); };
      const TimedMutexLock lock(&mutex_);
      mutex_.AwaitFor(absl::Condition(&news), kTick);
      ending = ending_;
      state = seen_.state;
      written_out = written_out_;
      if (wishes_.empty()) {
        changed_ = false;
      } else {
        wish = std::move(wishes_.front());
        wishes_.pop_front();
      }
    }
    if (wish.has_value()) {
      Grant(*wish);
    } else if (ending) {
      UntilThereIsMemory([this] { GiveUp(absl::CancelledError("the machine's monitor ended it")); });
    } else if (state == MirrorState::kFailed) {
      absl::Status error;
      (void)OnMirror([&error](Mirror& mirror) {
        error = mirror.error();
        return absl::OkStatus();
      });
      UntilThereIsMemory([&] { GiveUp(error); });
    } else if (!written_out.ok()) {
      // What its host did not write is not known: it cannot be whole any more.
      UntilThereIsMemory([&] { GiveUp(written_out); });
    } else {
      Tell();
      UntilThereIsMemory([&] { Follow(state); });
    }
  }
  std::deque<Wish> late;
  {
    const TimedMutexLock lock(&mutex_);
    gone_ = true;
    late.swap(wishes_);
  }
  EndClosing(IsOver());
  for (const Wish& wish : late) {
    wish.done(IsOver());
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

absl::Status MirrorJob::IsOver() const {
  const TimedMutexLock lock(&mutex_);
  if (ending_) {
    return absl::UnavailableError("this machine's monitor is ending");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the mirror of ", status_.disk, " to ", status_.target,
                   " is over: ", migration::MirrorStateName(status_.figures.state),
                   status_.result.ok() || absl::IsCancelled(status_.result) ? "" : ": ",
                   absl::IsCancelled(status_.result) ? "" : status_.result.message()));
}

void MirrorJob::Ask(Wish wish) {
  absl::Status refused;
  {
    const TimedMutexLock lock(&mutex_);
    if (!gone_ && !ending_) {
      if (wishes_.size() < kMostAsked) {
        wishes_.push_back(std::move(wish));
        return;
      }
      refused = absl::ResourceExhaustedError(
          absl::StrCat("too much waits for the mirror of ", request_.disk, " already; try again later"));
    }
  }
  wish.done(refused.ok() ? IsOver() : refused);
}

void MirrorJob::Grant(Wish& wish) {
  absl::Status result;
  switch (wish.kind) {
    case Wish::Kind::kComplete:
    case Wish::Kind::kKeepCopy: {
      const bool keep_copy = wish.kind == Wish::Kind::kKeepCopy;
      result = CatchOutOfMemory([&] { return CheckCanClose(keep_copy); });
      if (result.ok()) {
        BeginClosing(keep_copy, std::move(wish.done));
        return;
      }
      break;
    }
    case Wish::Kind::kCancel:
      UntilThereIsMemory([this] { GiveUp(absl::CancelledError("it was cancelled")); });
      break;
    case Wish::Kind::kPause:
    case Wish::Kind::kResume:
    case Wish::Kind::kSetMaxBandwidth:
      result = OnMirror([&wish](Mirror& mirror) {
        if (wish.kind == Wish::Kind::kSetMaxBandwidth) {
          mirror.SetMaxBandwidth(wish.max_bandwidth);
          return absl::OkStatus();
        }
        return wish.kind == Wish::Kind::kPause ? mirror.Pause() : mirror.Resume();
      });
      break;
  }
  wish.done(result);
}

void MirrorJob::BeginEnd() {
  const TimedMutexLock lock(&mutex_);
  ending_ = true;
}

bool MirrorJob::AwaitOver(absl::Duration limit) {
  const TimedMutexLock lock(&mutex_);
  return mutex_.AwaitFor(absl::Condition(&gone_), limit);
}

}  // namespace ferrite
