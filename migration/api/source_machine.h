// What a move needs from the machine that leaves, by nouns: with destination_machine.h the only thing that migration/
// knows of one.
//
// Implemented for ferrite's own Machine (vmm/move), for the C ABI, and by fakes in tests with no KVM at all. A source
// that is no machine, as a file is, implements the nouns that it has.
#ifndef FERRITE_MIGRATION_API_SOURCE_MACHINE_H_
#define FERRITE_MIGRATION_API_SOURCE_MACHINE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "memory/guest_memory.h"
#include "memory/page_bitmap.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_id.h"

namespace ferrite::migration {

class OutgoingPart;  // migration/sending/outgoing_part.h

// Whether the guest runs at the source.
class GuestRun {
 public:
  virtual ~GuestRun() = default;
  // After it returned nothing writes guest memory, nor any part of further_parts(); all writes that were begun are
  // done, and noted.
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // The move is over, and the guest cannot run here now (its disks did not come back): undoes what Pause() did but for
  // running it. What it lacks is the machine's own affair from here on.
  virtual void StayPaused() = 0;
  // The ids of the vCPUs' threads, for the account. They are this process's.
  virtual std::vector<pid_t> VcpuThreads() { return {}; }
  // Lets each vCPU run only (100 - percent) of the time; 0 ends it, and does not fail.
  virtual absl::Status SetThrottle(int percent) = 0;
};

// Which pages of memory are to be sent, and to be sent again.
class DirtyLog {
 public:
  virtual ~DirtyLog() = default;
  // From here every write to guest memory, by vCPUs and by the monitor, is found by CollectDirty().
  virtual absl::Status StartDirtyTracking() = 0;
  // Adds the pages of region `index` written since the last call (or the start) to `into`, and forgets them.
  virtual absl::Status CollectDirty(size_t index, PageBitmap& into) = 0;
  virtual void StopDirtyTracking() = 0;
  // Pages whose content nobody may rely on (in the balloon): adds them to `into`.
  virtual void AddUnneededPages(size_t index, PageBitmap& into) = 0;
};

// All of the machine but its memory.
class GuestState {
 public:
  virtual ~GuestState() = default;
  // Everything that the destination needs to build the machine or to refuse it, but for its regions: these are known.
  virtual absl::StatusOr<MachineSpec> Describe() = 0;
  // Paused: devices' and vCPUs' complete state, in a form that the destination's kind of machine knows.
  virtual absl::StatusOr<std::vector<uint8_t>> SaveState() = 0;
};

// What the guest has of the host.
class Resources {
 public:
  virtual ~Resources() = default;
  // R8. Balanced; Allow does the postponed work.
  virtual void InhibitBalloon() = 0;
  virtual void AllowBalloon() = 0;
  // Paused: disks flushed and their locks released, so that the destination can take them.
  virtual absl::Status ReleaseDisks() = 0;
  // Takes them back when the move failed. May wait a few seconds for somebody else who has one.
  virtual absl::Status AcquireDisks() = 0;
};

// To whom the guest was given.
class HandoverRecord {
 public:
  virtual ~HandoverRecord() = default;
  // Long before RecordGrant(), while the guest runs: whatever of that can be done by then.
  virtual absl::Status PrepareGrant(const MoveId& /*move_id*/, uint64_t /*epoch*/, absl::string_view /*where*/) {
    return absl::OkStatus();
  }
  // Written to disk before GRANT is sent (docs/move.md): from here on this machine never resumes by itself.
  virtual absl::Status RecordGrant(const MoveId& move_id, uint64_t epoch, absl::string_view where) = 0;
  // The destination runs the guest and has all of it: this machine ends.
  virtual void Moved(absl::string_view where) = 0;
};

// The machine at the source. Threads: the move's threads call, one call at a time, except memory(), which any may use.
class SourceMachine {
 public:
  virtual ~SourceMachine() = default;
  virtual GuestMemory& memory() = 0;
  virtual GuestRun& run() = 0;
  virtual DirtyLog& dirty_log() = 0;
  virtual GuestState& state() = 0;
  virtual Resources& resources() = 0;
  virtual HandoverRecord& handover() = 0;
  // What moves beside its memory, in the order of its numbers. They outlive the move.
  virtual std::vector<OutgoingPart*> further_parts() { return {}; }
};

// One object that is all of it.
class WholeSourceMachine : public SourceMachine,
                           public GuestRun,
                           public DirtyLog,
                           public GuestState,
                           public Resources,
                           public HandoverRecord {
 public:
  GuestRun& run() final { return *this; }
  DirtyLog& dirty_log() final { return *this; }
  GuestState& state() final { return *this; }
  Resources& resources() final { return *this; }
  HandoverRecord& handover() final { return *this; }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_SOURCE_MACHINE_H_
