// What a move needs from the machine that arrives, by nouns (source_machine.h has those of the other side).
#ifndef FERRITE_MIGRATION_API_DESTINATION_MACHINE_H_
#define FERRITE_MIGRATION_API_DESTINATION_MACHINE_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "memory/guest_memory.h"
#include "migration/api/machine_spec.h"

namespace ferrite::migration {

class IncomingPart;  // migration/placing/incoming_part.h

// The guest, which never runs at the destination but by Run().
class ArrivingGuest {
 public:
  virtual ~ArrivingGuest() = default;
  // Runs the vCPUs; devices are told that they arrived.
  virtual absl::Status Run() = 0;
  // Whether the guest that Run() ran has ended meanwhile (powered off, died). At any time.
  virtual bool Ended() = 0;
  // The vCPU whose thread has this id, for the accounts of waiting. On any thread of the move's, at any time.
  virtual std::optional<uint32_t> VcpuOfThread(pid_t thread) = 0;
  // How long the vCPU that waited longest for a processor of the host did so until it ran (so far, where it has not run
  // yet). After Run().
  virtual absl::Duration EntryWait() { return absl::ZeroDuration(); }
};

// All of the machine but its memory, as GuestState::SaveState() made it.
class ArrivingState {
 public:
  virtual ~ArrivingState() = default;
  // Parses and checks the whole blob, changing nothing (R7).
  virtual absl::Status CheckState(std::span<const uint8_t> blob) = 0;
  // How long LoadState() will take: tried with a state of the machine's own, before anything arrived.
  virtual absl::StatusOr<absl::Duration> MeasureLoad() = 0;
  // Applies it. May touch guest memory, and so wait for pages.
  virtual absl::Status LoadState(std::span<const uint8_t> blob) = 0;
};

// What the guest gets of this host.
class ArrivingResources {
 public:
  virtual ~ArrivingResources() = default;
  // R8. Balanced; Allow does the postponed work.
  virtual void InhibitBalloon() = 0;
  virtual void AllowBalloon() = 0;
  // mlock(2) of guest RAM, where the machine was asked to (--mlock): dropped for a move with post-copy (true → false),
  // taken again at its end. Without --mlock both do nothing.
  virtual absl::Status SetLocked(bool locked) = 0;
  // Locks and opens the disks; with GRANT only.
  virtual absl::Status AcquireDisks() = 0;
};

// The machine at the destination, built from the source's description. Threads: the move's threads call, one call at a
// time, but for what says otherwise.
class DestinationMachine {
 public:
  virtual ~DestinationMachine() = default;
  // On any thread.
  virtual GuestMemory& memory() = 0;
  virtual ArrivingGuest& guest() = 0;
  virtual ArrivingState& state() = 0;
  virtual ArrivingResources& resources() = 0;
  // What comes beside its memory, as SourceMachine::further_parts(). They live as long as this.
  virtual std::vector<IncomingPart*> further_parts() { return {}; }
  // Whether `offered`, a region of a disk that the source would copy, is none of these: the source leaves it out.
  virtual bool Declines(const MachineSpec::Region& /*offered*/) { return false; }
};

// One object that is all of it.
class WholeDestinationMachine : public DestinationMachine,
                                public ArrivingGuest,
                                public ArrivingState,
                                public ArrivingResources {
 public:
  ArrivingGuest& guest() final { return *this; }
  ArrivingState& state() final { return *this; }
  ArrivingResources& resources() final { return *this; }
};

// Builds the machine that a description asks for, or refuses with the reason (R7): CPU features, memory, devices and
// their versions, disks. Its memory is made here, or adopted (MemoryRegion::Adopt()). Threads: that of the session's
// Run().
class MachineBuilder {
 public:
  virtual ~MachineBuilder() = default;
  virtual absl::StatusOr<std::unique_ptr<DestinationMachine>> Build(const MachineSpec& spec) = 0;
  // The machine that was built is the one that comes: from here on others may see it.
  virtual void Accepted() = 0;
  // It is not, and the DestinationMachine is gone: so is the machine then, and all that it took. Build() may be called
  // again.
  virtual void Dropped() = 0;
  // No machine comes any more: a Build() that is on need not be finished. From any thread.
  virtual void Cancelled() {}
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_DESTINATION_MACHINE_H_
