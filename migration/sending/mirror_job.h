// Mirror itself: its states, and what each turn starts.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_JOB_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_JOB_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/mirror_options.h"
#include "migration/sending/dirty_chunks.h"
#include "migration/sending/held_writes.h"
#include "migration/sending/mirror.h"
#include "migration/sending/mirror_backoff.h"
#include "migration/sending/mirror_copier.h"
#include "migration/sending/mirror_decision.h"
#include "migration/sending/mirror_rates.h"
#include "migration/sending/rate_limiter.h"

namespace ferrite::migration {

// Made by Mirror::Create(), which has checked what it is given. mirror_job.cc has what is asked of it, mirror_turn.cc
// what it does by itself.
class MirrorJob final : public Mirror, private MirrorCopier::Owner {
 public:
  // `block_bytes`: the larger one of both sides'.
  MirrorJob(std::unique_ptr<DirtyChunks> chunks, uint32_t block_bytes, const MirrorOptions& options,
            Listener& listener);
  absl::Status MakeCopier(BlockIo& source, BlockIo& target);
  ~MirrorJob() override;

  uint64_t Wrote(uint64_t offset, uint64_t bytes) override;
  MonotonicTime Turn(MonotonicTime now) override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  void SetMaxBandwidth(uint64_t bytes_per_second) override;
  void SetCopyMode(CopyMode mode) override;
  absl::Status Drain() override;
  absl::Status WithdrawDrain() override;
  absl::Status Cancel() override;
  bool idle() const override { return copier_->at_io() == 0; }
  MirrorState state() const override { return state_; }
  CopyMode copy_mode() const override { return copy_mode_; }
  MirrorFigures figures(MonotonicTime now) const override;
  absl::Status error() const override { return error_; }

 private:
  // MirrorCopier::Owner
  void Copied(const ChunkRun& run, uint64_t ticket) override { held_.Copied(run, ticket); }
  void CopiedAlone(uint64_t ticket) override { held_.CopiedAlone(ticket); }
  void Flushed() override;
  void Succeeded(MirrorCopier::Side side) override;
  void Failed(MirrorCopier::Side side, const absl::Status& error) override;
  void FlushFailed(const absl::Status& error) override;
  bool goes_on() const override { return IsAtWork(); }

  bool IsAtWork() const;
  bool IsOver() const { return IsFinal(state_); }
  absl::Status Refusal(absl::string_view what) const;
  void SetState(MirrorState state);
  void Fail(const absl::Status& error);
  // completing → ready, and an error's pause is one of a mirror that is not completing.
  void EndDrain();
  // Holds the guest's writes, or lets them go, by mode, state, back-off and a target that is late.
  void UpdateHolding();
  // Whether what is held waits for too long.
  void JudgeHeld();
  void SendAnswers();
  void AskTurn();
  // Copies to `told_` what figures() tells.
  void Publish();

  MonotonicTime retry_at() const;
  // Rates, and what they lead to.
  void Decide();
  MonotonicTime Start();
  void StartHeld();
  MonotonicTime StartBackground();
  // Everything is at the target and flushed, or the flush is begun.
  void CompleteIfClean();

  const MirrorOptions options_;
  Listener& listener_;
  const std::unique_ptr<DirtyChunks> chunks_;
  HeldWrites held_;
  std::unique_ptr<MirrorCopier> copier_;
  RateLimiter limiter_;
  std::atomic<bool> turn_asked_{false};
  std::atomic<bool> is_over_{false};
  std::atomic<uint64_t> guest_writes_{0};

  // Of the mirror's thread.
  MirrorState state_ = MirrorState::kRunning;
  CopyMode copy_mode_;
  uint64_t max_bandwidth_;
  bool may_turn_;  // to write-blocking by itself
  bool holds_ = false;
  bool is_draining_ = false;
  bool is_flushing_ = false;
  bool flush_counts_ = false;  // nobody wrote and nothing was copied since it was begun
  bool is_late_ = false;       // held writes were let go for the time they took, and the target has done nothing since
  uint64_t errors_ = 0;
  absl::Status error_;
  // Their messages are what is told; a copy of a status takes no memory.
  absl::Status cause_;
  absl::Status ignored_;  // the last one that was
  MirrorBackoff source_backoff_, target_backoff_;
  std::vector<uint64_t> answers_;
  bool has_begun_ = false;
  MonotonicTime now_;  // of this turn, or the last one
  MonotonicTime started_at_;
  MonotonicTime ready_at_ = MonotonicTime::InfinitePast();
  absl::Duration busy_time_;
  MonotonicTime judged_at_;  // IsFutile()
  bool was_futile_ = false;
  bool is_calm_ = false;  // so little remains that it need not be copied at once
  bool is_first_pass_ = true;
  uint64_t cursor_ = 0;  // of the pass, in chunks
  MonotonicTime pass_began_ = MonotonicTime::InfinitePast();

  // What any thread may ask for. Dirty and in flight come from chunks_.
  struct Told {
    MirrorState state = MirrorState::kRunning;
    CopyMode copy_mode = CopyMode::kBackground;
    MirrorCopier::Totals totals;
    uint64_t errors = 0;
    absl::Status cause;
    absl::Status ignored;
    bool has_begun = false;
    MonotonicTime started_at;
    MonotonicTime ready_at = MonotonicTime::InfinitePast();
    MonotonicTime over_at = MonotonicTime::InfiniteFuture();
  };
  mutable absl::Mutex mutex_;
  Told told_ ABSL_GUARDED_BY(mutex_);
  MirrorRates rates_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_JOB_H_
