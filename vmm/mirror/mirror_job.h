// The copying of one disk of a machine, from its start until the target is the machine's disk, a copy, or given up.
#ifndef FERRITE_VMM_MIRROR_MIRROR_JOB_H_
#define FERRITE_VMM_MIRROR_MIRROR_JOB_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "devices/block/write_witness.h"
#include "migration/api/block_io.h"
#include "migration/sending/mirror.h"
#include "vmm/control/mirror_port.h"
#include "vmm/machine/machine_disks.h"
#include "vmm/mirror/mirror_target.h"

namespace ferrite {

// Data goes on the thread "mirror"; what waits for the machine, and what is told, on "mirror-job"; what takes long at
// the target's disk, on "mirror-flush".
//
// While it is on it is told of the disk's writes, whether the machine runs, is paused or is reset. Nothing of an error
// at the target reaches the guest, and the source's image is right at each instant.
//
// Its end is long before its standstill: while the guest works, what was copied is written out, until that takes
// little, and what is left is copied, until it fits the downtime limit. Only then the disk's requests wait. Where a
// burst came between, they go on.
//
// Threads: any, but for the destructor, which ends what is on and waits for that.
class MirrorJob final : private WriteWitness, private migration::Mirror::Listener {
 public:
  // How often what goes on is told.
  static constexpr absl::Duration kTick = absl::Milliseconds(250);
  // How long the disk's requests wait for the end of a mirror at the most.
  static constexpr absl::Duration kMostStandstill = absl::Seconds(20);
  // How long a server may take to end what is in flight, when nobody needs it any more.
  static constexpr absl::Duration kLastOperations = absl::Seconds(5);
  // Between two tries to complete by itself: at the least, and as a multiple of the standstill that one cost in vain.
  static constexpr absl::Duration kNextTry = absl::Seconds(1);
  static constexpr int kNextTryParts = 20;
  // Who wants to complete it gives up when what is left does not fit, and gets no less for so long: within 3 s writes
  // are blocked where that may be.
  static constexpr absl::Duration kMostInVain = absl::Seconds(5);
  // What is asked for and not done yet.
  static constexpr size_t kMostAsked = 16;

  // Told each change, and what is every kTick; at last that it is over. One call at a time, on the job's thread. It
  // must not call the job.
  using Listener = std::function<void(const MirrorStatus&)>;
  using Done = MirrorPort::Done;

  // `disks` outlives the job.
  static absl::StatusOr<std::unique_ptr<MirrorJob>> Create(MachineDisks& disks, const MirrorRequest& request,
                                                           uint64_t number, Listener listener);
  ~MirrorJob() override;

  // Once. Opens its target on the job's thread, which takes as long as it does, and begins; then `begun` is called
  // there, which does not destroy the job: OK, or errors as MirrorPort::Start()'s, and nothing is left of it but
  // itself. What is asked for before that waits for it. On an error of Start() itself nothing is called.
  absl::Status Start(Done begun);

  const std::string& disk() const { return request_.disk; }
  uint64_t number() const { return number_; }
  MirrorStatus status() const;
  // MirrorPort has the contract of these.
  void Complete(Done done) { Ask({.kind = Wish::Kind::kComplete, .done = std::move(done)}); }
  void Cancel(bool keep_copy, Done done) {
    Ask({.kind = keep_copy ? Wish::Kind::kKeepCopy : Wish::Kind::kCancel, .done = std::move(done)});
  }
  void Pause(Done done) { Ask({.kind = Wish::Kind::kPause, .done = std::move(done)}); }
  void Resume(Done done) { Ask({.kind = Wish::Kind::kResume, .done = std::move(done)}); }
  void SetMaxBandwidth(uint64_t bytes_per_second, Done done) {
    Ask({.kind = Wish::Kind::kSetMaxBandwidth, .max_bandwidth = bytes_per_second, .done = std::move(done)});
  }
  // It ends soon: no standstill is waited for any more. Never waits.
  void BeginEnd();
  // Whether it is over by then, its target closed or given up.
  bool AwaitOver(absl::Duration limit);

 private:
  // What somebody waits for that the job's thread does, which is the only one to do anything to the mirror.
  struct Wish {
    enum class Kind { kComplete, kKeepCopy, kCancel, kPause, kResume, kSetMaxBandwidth };
    Kind kind = Kind::kCancel;
    uint64_t max_bandwidth = 0;
    Done done;
  };
  // An end that is under way, while the guest works.
  struct Closing {
    Closing(bool keeps, Done told) : keep_copy(keeps), done(std::move(told)) {}

    const bool keep_copy;
    Done done;  // empty: it completes by itself
    int write_outs = 0;
    bool is_written_out = false;         // what came since the last one began is little
    uint64_t least_left = ~uint64_t{0};  // bytes
    MonotonicTime least_at;
    absl::Duration stood_still;
  };

  MirrorJob(MachineDisks& disks, const MirrorRequest& request, uint64_t number, Listener listener, EventFd turn,
            Fd alarm);
  // On the job's thread: all that it needs, and then it is told of writes.
  absl::Status Open();
  absl::Status Begin();

  // WriteWitness.
  uint64_t Wrote(uint64_t offset, uint64_t bytes) override { return mirror_->Wrote(offset, bytes); }
  // Mirror::Listener.
  void TurnSoon() override { turn_.Signal(); }
  void Answer(uint64_t ticket) override { disks_.AnswerHeld(request_.disk, ticket); }

  // On the thread of the data.
  void Turn();
  // What the job's thread is to look at, when that is news. Takes no memory.
  void Publish(bool fits);
  void SetAlarm(MonotonicTime at) const;
  // Runs `call` there, with the mirror, and waits for it: what it leads to is seen then. On the job's thread.
  absl::Status OnMirror(absl::FunctionRef<absl::Status(migration::Mirror&)> call);

  // On the job's thread.
  void Run();
  bool IsFinished() const;
  void Tell();
  void Grant(Wish& wish);
  // What `state`, and what is written out by now, lead to.
  void Follow(migration::MirrorState state);
  // FAILED_PRECONDITION for what cannot be completed (or kept) now.
  absl::Status CheckCanClose(bool keep_copy) const;
  void BeginClosing(bool keep_copy, Done done);
  // One step nearer to the standstill, or that.
  void Close();
  // Nothing of it is under way any more: who asked for it is told.
  void EndClosing(const absl::Status& result);
  // Whether what is left fits, or did a moment ago.
  bool Fits();
  // Has the target write out what it was given, beside all else; news when that is over.
  void BeginWriteOut();
  // With the disk standing still: copies the rest and flushes, then `whole`, and no write comes before that is over.
  // Sets `fitted` to false, and does nothing, when what is left does not fit by then.
  absl::Status Equalize(bool& fitted, absl::FunctionRef<absl::Status()> whole);
  // Ends as soon as the mirror does not drain any more.
  absl::Status AwaitCopied();
  absl::Status Pivot(bool& fitted);
  absl::Status KeepCopy(bool& fitted);
  // Ends the copying if it is on, and that the job is told of writes.
  void EndCopying();
  void Finish(const absl::Status& result, MirrorEnd end);
  // The same of a target that is no whole copy: what was made goes.
  void GiveUp(const absl::Status& why);
  absl::Status IsOver() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Has the job's thread do it.
  void Ask(Wish wish) ABSL_LOCKS_EXCLUDED(mutex_);

  MachineDisks& disks_;
  const MirrorRequest request_;
  const uint64_t number_;
  const Listener listener_;
  const EventFd turn_;
  const Fd alarm_;  // timerfd(2)

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MirrorTarget> target_;
  std::unique_ptr<migration::BlockIo> source_;
  // Made before anybody is told of it, and gone on the thread of the data, with mutex_, when nobody is any more.
  std::unique_ptr<migration::Mirror> mirror_;
  std::unique_ptr<EventLoop::Watch> turn_watch_;
  std::unique_ptr<EventLoop::Watch> alarm_watch_;

  // What the job's thread looks at of the mirror.
  struct Seen {
    migration::MirrorState state = migration::MirrorState::kRunning;
    migration::CopyMode mode = migration::CopyMode::kBackground;
    bool ended = false;  // over, and nothing is in flight
    bool fits = false;   // of closing_: what is left

    bool operator==(const Seen&) const = default;
  };
  Seen published_;  // of the thread of the data

  std::atomic<bool> is_closing_{false};  // closing_ is there

  // Of the job's thread.
  std::optional<Closing> closing_;
  MonotonicTime next_try_ = MonotonicTime::InfinitePast();  // of auto_complete
  bool was_ready_ = false;
  MonotonicTime write_out_began_;
  Thread write_out_;  // BeginWriteOut()'s

  mutable TimedMutex mutex_;
  std::deque<Wish> wishes_ ABSL_GUARDED_BY(mutex_);
  bool is_writing_out_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status written_out_ ABSL_GUARDED_BY(mutex_);  // the last one's result
  bool is_told_ ABSL_GUARDED_BY(mutex_) = false;      // of the disk's writes: it has begun
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;         // the job's thread, which grants wishes
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;  // what is seen, or written out, since the job's thread looked
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  MirrorStatus status_ ABSL_GUARDED_BY(mutex_);

  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRROR_JOB_H_
