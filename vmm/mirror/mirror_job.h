// The copying of one disk of a machine, from its start until the target is the machine's disk, a copy, or given up.
#ifndef FERRITE_VMM_MIRROR_MIRROR_JOB_H_
#define FERRITE_VMM_MIRROR_MIRROR_JOB_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

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

// Data goes on the thread "mirror"; what waits for the machine, and what is told, on "mirror-job".
//
// While it is on it is told of the disk's writes, whether the machine runs, is paused or is reset. Nothing of an error
// at the target reaches the guest, and the source's image is right at each instant.
//
// Threads: any, but for the destructor, which ends what is on and waits for that.
class MirrorJob final : private WriteWitness, private migration::Mirror::Listener {
 public:
  // How often what goes on is told.
  static constexpr absl::Duration kTick = absl::Milliseconds(250);
  // How long the disk's requests wait for the end of a mirror at the most. A client waits 30 s for an answer.
  static constexpr absl::Duration kMostStandstill = absl::Seconds(20);
  // How long a server may take to end what is in flight, when nobody needs it any more.
  static constexpr absl::Duration kLastOperations = absl::Seconds(5);

  // Told each change, and what is every kTick; at last that it is over. One call at a time, on the job's thread. It
  // must not call the job.
  using Listener = std::function<void(const MirrorStatus&)>;

  // How long who asks for something waits for it at the most, a little less than a client.
  static constexpr absl::Duration kMostPatience = absl::Seconds(25);
  // Between two tries to complete by itself.
  static constexpr absl::Duration kNextTry = absl::Seconds(1);

  // Begins. `disks` outlives the job. Errors as MirrorPort::Start()'s; nothing is left of it then.
  static absl::StatusOr<std::unique_ptr<MirrorJob>> Start(MachineDisks& disks, const MirrorRequest& request,
                                                          uint64_t number, Listener listener);
  ~MirrorJob() override;

  const std::string& disk() const { return request_.disk; }
  MirrorStatus status() const;
  // MirrorPort has the contract of these; DEADLINE_EXCEEDED when it takes longer than kMostPatience, and goes on.
  absl::Status Complete();
  absl::Status Cancel(bool keep_copy);
  absl::Status Pause();
  absl::Status Resume();
  absl::Status SetMaxBandwidth(uint64_t bytes_per_second);
  // It ends soon: no standstill is waited for any more. Never waits.
  void BeginEnd();
  // Whether it is over by then, its target closed or given up.
  bool AwaitOver(absl::Duration limit);

 private:
  // What somebody waits for that the job's thread does, which is the only one to do anything to the mirror.
  using Wish = std::function<absl::Status()>;

  MirrorJob(MachineDisks& disks, const MirrorRequest& request, uint64_t number, Listener listener, EventFd turn,
            Fd alarm);
  // All that it needs; then its thread, and then it is told of writes.
  absl::Status Open();
  absl::Status Begin();

  // WriteWitness.
  uint64_t Wrote(uint64_t offset, uint64_t bytes) override { return mirror_->Wrote(offset, bytes); }
  // Mirror::Listener.
  void TurnSoon() override { turn_.Signal(); }
  void Answer(uint64_t ticket) override { disks_.AnswerHeld(request_.disk, ticket); }

  // On the thread of the data.
  void Turn();
  void SetAlarm(MonotonicTime at) const;
  // Runs `call` there, with the mirror, and waits for it.
  absl::Status OnMirror(absl::FunctionRef<absl::Status(migration::Mirror&)> call);

  // On the job's thread.
  void Run();
  void Tell();
  // With the disk standing still: copies the rest and flushes, then `whole`, and no write comes before that is over.
  absl::Status Equalize(absl::FunctionRef<absl::Status()> whole);
  absl::Status AwaitCopied();
  absl::Status Pivot();
  absl::Status KeepCopy();
  // Ends the copying if it is on, and that the job is told of writes.
  void EndCopying();
  void Finish(const absl::Status& result, MirrorEnd end);
  // The same of a target that is no whole copy: what was made goes.
  void GiveUp(const absl::Status& why);

  // Has the job's thread do `wish`; its result.
  absl::Status Ask(Wish wish) ABSL_LOCKS_EXCLUDED(mutex_);

  MachineDisks& disks_;
  const MirrorRequest request_;
  const Listener listener_;
  const EventFd turn_;
  const Fd alarm_;  // timerfd(2)

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<MirrorTarget> target_;  // goes with mutex_
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

    bool operator==(const Seen&) const = default;
  };
  Seen published_;  // of the thread of the data

  mutable TimedMutex mutex_;
  Wish wish_ ABSL_GUARDED_BY(mutex_);            // empty: none
  bool wished_ ABSL_GUARDED_BY(mutex_) = false;  // and it is not granted yet
  absl::Status granted_ ABSL_GUARDED_BY(mutex_);
  bool asking_ ABSL_GUARDED_BY(mutex_) = false;   // somebody has the turn to wish
  bool is_told_ ABSL_GUARDED_BY(mutex_) = false;  // of the disk's writes: it has begun
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;     // the job's thread, which grants wishes
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;  // its state, since the job's thread looked
  Seen seen_ ABSL_GUARDED_BY(mutex_);
  MirrorStatus status_ ABSL_GUARDED_BY(mutex_);

  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_MIRROR_JOB_H_
