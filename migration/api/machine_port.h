// What a move needs from the machine that it moves: the only thing that migration/ knows of one.
//
// Implemented for ferrite's own Machine (vmm/move), for the C ABI, and by fakes in tests with no KVM at all.
#ifndef FERRITE_MIGRATION_API_MACHINE_PORT_H_
#define FERRITE_MIGRATION_API_MACHINE_PORT_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "memory/guest_memory.h"
#include "memory/page_bitmap.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"

namespace ferrite::migration {

// The machine at the source. Threads: the session's threads call, one call at a time, except memory(), which any may
// use.
class SourcePort {
 public:
  virtual ~SourcePort() = default;

  virtual GuestMemory& memory() = 0;
  // Everything that the destination needs to build the machine or to refuse it.
  virtual absl::StatusOr<MachineSpec> Describe() = 0;

  // From here every write to guest memory, by vCPUs and by the monitor, is found by CollectDirty().
  virtual absl::Status StartDirtyTracking() = 0;
  // Adds the pages of region `index` written since the last call (or the start) to `into`, and forgets them.
  virtual absl::Status CollectDirty(size_t index, PageBitmap& into) = 0;
  virtual void StopDirtyTracking() = 0;

  // Pages whose content nobody may rely on (in the balloon): adds them to `into`.
  virtual void AddUnneededPages(size_t index, PageBitmap& into) = 0;
  // R8. Balanced; Allow does the postponed work.
  virtual void InhibitBalloon() = 0;
  virtual void AllowBalloon() = 0;

  // After it returned nothing writes guest memory.
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // The move is over, and the guest cannot run here now (its disks did not come back): undoes what Pause() did but for
  // running it. What it lacks is the machine's own affair from here on.
  virtual void StayPaused() = 0;
  // Lets each vCPU run only (100 - percent) of the time; 0 ends it, and does not fail.
  virtual absl::Status SetThrottle(int percent) = 0;

  // Paused: devices' and vCPUs' complete state, an encoded state.capnp Machine.
  virtual absl::StatusOr<std::vector<uint8_t>> SaveState() = 0;

  // Paused: disks flushed and their locks released, so that the destination can take them.
  virtual absl::Status ReleaseDisks() = 0;
  // Takes them back when the move failed. May wait a few seconds for somebody else who has one.
  virtual absl::Status AcquireDisks() = 0;

  // Written to disk before GRANT is sent (docs/move.md): from here on this machine never resumes by itself.
  virtual absl::Status RecordGrant(const MoveId& move_id, uint64_t epoch, absl::string_view where) = 0;

  // The destination runs the guest and has all of it: this machine ends.
  virtual void Moved(absl::string_view where) = 0;
};

// The machine at the destination, built from the source's description, and never run but by Run(). Threads: as of the
// source, VcpuOfThread() besides memory().
class DestinationPort {
 public:
  virtual ~DestinationPort() = default;

  virtual GuestMemory& memory() = 0;
  virtual void InhibitBalloon() = 0;
  virtual void AllowBalloon() = 0;
  // Transparent huge pages for guest RAM, as the machine was configured. Off while a move is on.
  virtual absl::Status AllowThp() = 0;
  // mlock(2) of guest RAM, where the machine was asked to (--mlock): dropped for a move with post-copy (true → false),
  // taken again at its end. Without --mlock both do nothing.
  virtual absl::Status SetLocked(bool locked) = 0;

  // Parses and checks the whole blob, changing nothing (R7).
  virtual absl::Status CheckState(std::span<const uint8_t> blob) = 0;
  // How long LoadState() will take: tried with a state of the machine's own, before anything arrived.
  virtual absl::StatusOr<absl::Duration> MeasureLoad() = 0;
  // Applies it. May touch guest memory, and so wait for pages.
  virtual absl::Status LoadState(std::span<const uint8_t> blob) = 0;
  // Locks and opens the disks; with GRANT only.
  virtual absl::Status AcquireDisks() = 0;
  // Runs the vCPUs; devices are told that they arrived.
  virtual absl::Status Run() = 0;
  // Whether the guest that Run() ran has ended meanwhile (powered off, died). At any time.
  virtual bool Ended() = 0;
  // The vCPU whose thread has this id, for the accounts of waiting. On any thread of the session's, at any time.
  virtual std::optional<uint32_t> VcpuOfThread(pid_t thread) = 0;
};

// Builds the machine that a spec asks for, or refuses with the reason (R7): CPU features, memory, devices and
// their versions, disks. Threads: that of the session's Run().
class DestinationFactory {
 public:
  virtual ~DestinationFactory() = default;
  virtual absl::StatusOr<std::unique_ptr<DestinationPort>> Build(const MachineSpec& spec) = 0;
  // The machine of the port that was built is the one that comes: from here on others may see it.
  virtual void Accepted() = 0;
  // It is not, and the port is gone: so is the machine then, and all that it took. Build() may be called again.
  virtual void Dropped() = 0;
  // No machine comes any more: a Build() that is on need not be finished. From any thread.
  virtual void Cancelled() {}
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MACHINE_PORT_H_
