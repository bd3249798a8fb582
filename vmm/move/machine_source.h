// A Machine as the source of a move.
#ifndef FERRITE_VMM_MOVE_MACHINE_SOURCE_H_
#define FERRITE_VMM_MOVE_MACHINE_SOURCE_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/fd.h"
#include "base/timed_mutex.h"
#include "devices/balloon/balloon_inhibitor.h"
#include "memory/page_bitmap.h"
#include "migration/api/source_machine.h"
#include "vmm/control/grant_record.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/movable_machine.h"
#include "vmm/move/disk_part.h"

namespace ferrite {

// A machine that its user paused stays paused when the move fails, and arrives paused when it does not. From Pause() on
// the machine is held: nobody resumes it but Resume() (R2).
//
// Disks that a failed move could not take back stay released: the machine takes them when it is resumed, and Mover
// before the next move. Those that are copied are nobody else's, and are not released at all.
//
// Threads: as migration::SourceMachine says. For one move.
class MachineSource final : public migration::WholeSourceMachine {
 public:
  // `machine` and `directory` (opened for reading), in which grants are recorded, outlive the port.
  MachineSource(Machine& machine, const Fd& directory);
  ~MachineSource() override;

  GuestMemory& memory() override { return machine_.memory(); }
  absl::StatusOr<migration::MachineSpec> Describe() override;
  absl::Status StartDirtyTracking() override;
  absl::Status CollectDirty(size_t index, PageBitmap& into) override {
    return machine_.moving().CollectDirty(index, into);
  }
  void StopDirtyTracking() override;
  void AddUnneededPages(size_t index, PageBitmap& into) override { machine_.moving().AddUnneededPages(index, into); }
  void InhibitBalloon() override;
  void AllowBalloon() override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  void StayPaused() override;
  std::vector<pid_t> VcpuThreads() override { return machine_.moving().VcpuThreads(); }
  absl::Status SetThrottle(int percent) override { return machine_.moving().SetThrottle(percent); }
  absl::StatusOr<std::vector<uint8_t>> SaveState() override;
  absl::Status ReleaseDisks() override { return machine_.moving().ReleaseDisks(CopiedDisks()); }
  absl::Status AcquireDisks() override;
  absl::Status PrepareGrant(const migration::MoveId& move_id, uint64_t epoch, absl::string_view where) override;
  absl::Status RecordGrant(const migration::MoveId& move_id, uint64_t epoch, absl::string_view where) override;
  void Moved(absl::string_view where) override;

  std::vector<migration::OutgoingPart*> further_parts() override;

  // The ids of the disks that are copied, when both sides have said which.
  std::vector<std::string> CopiedDisks() const;
  // Whether the guest ran when it was paused for the switchover. When the move is over.
  bool ran() const { return ran_; }

  // A kernel or initrd is not read any more for its description: it may be somebody else's, and large. Any thread.
  void EndDescription() { ended_ = true; }
  // A disk that somebody else has is not waited for any more. Any thread.
  void StopTrying();

 private:
  void EndHold();

  Machine& machine_;
  const Fd& directory_;
  std::vector<std::unique_ptr<DiskPart>> disks_;
  std::optional<PreparedGrant> grant_;
  bool held_ = false;
  bool ran_ = false;  // before it was held
  BalloonInhibitor::Token no_ballooning_;

  std::atomic<bool> ended_{false};
  TimedMutex mutex_;
  bool stop_trying_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_MACHINE_SOURCE_H_
