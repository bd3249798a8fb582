// A thing that is moved, as the destination has it: memory, a disk.
#ifndef FERRITE_MIGRATION_PLACING_INCOMING_PART_H_
#define FERRITE_MIGRATION_PLACING_INCOMING_PART_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/open_userfault.h"
#include "migration/api/machine_spec.h"
#include "migration/placing/placer.h"
#include "migration/placing/request_queue.h"

namespace ferrite::migration {

// The twin of OutgoingPart. `region` counts its own regions from 0. Errors, also of the placers, are never UNAVAILABLE
// or OUT_OF_RANGE: those say that the connection is lost, and the source is waited for. Threads: the move's, but for
// the placers.
class IncomingPart {
 public:
  virtual ~IncomingPart() = default;

  // For messages: "memory".
  virtual absl::string_view name() const = 0;
  virtual size_t regions() const = 0;
  virtual Placer& placer(size_t region) = 0;
  // FAILED_PRECONDITION, with what differs, unless `theirs` are the regions that there are here, as many as there are.
  virtual absl::Status Check(std::span<const MachineSpec::Region> theirs) const = 0;

  // Whether it is mirrored, as OutgoingPart::mirrored() says: nothing of it is missing behind the switchover, or the
  // move is refused before anything is loaded. For it what is said of post-copy below has nothing to do, and no error.
  virtual bool mirrored() const { return false; }

  // Makes what is needed for somebody to wait for what is missing when the guest runs (post-copy). An error says why
  // that cannot be.
  virtual absl::Status OfferFaults(const UserfaultOpener& open_userfault) = 0;
  // That will not be, after all.
  virtual void WithdrawFaults() = 0;

  // Nothing is here from here on.
  virtual absl::Status Prepare() = 0;

  // Behind the last round: what came as lost is so for who touches it.
  virtual absl::Status ShowPoisoned() { return absl::OkStatus(); }

  // What has come of one that is mirrored is on stable storage when this returns (fdatasync(2)). A
  // source that keeps to the order has nothing placed meanwhile; of one that does not, what is placed meanwhile may or
  // may not be. After each round over it, so that the rounds' time, by which it is ready or not, is that of the
  // storage; and when all has come, before the state is loaded: the guest stands still, and little is left to be
  // written by then. An error refuses the move, and the guest goes on at the source.
  virtual absl::Status Flush() { return absl::OkStatus(); }

  // The move is over, and the guest never runs here: what was made for it is removed; a file of the user's that it
  // was to be put in (receive --disk-copy ID=PATH,existing) stays. At any time before the guest runs, before any other
  // call among it, also more than once; nobody places anything any more, and the machine is still there. Not when the
  // guest runs here, whatever becomes of the move then.
  virtual void Abandoned() {}

  // --- With post-copy ---

  // From here on who touches what is missing waits, and it is asked for: over `requests`, or by FaultServer for memory.
  // `first_region` is the number of its first region among all that moves. `requests` outlives the part.
  virtual absl::Status Arm(RequestQueue& requests, uint16_t first_region) = 0;
  // Who waits for what could not be placed looks again.
  virtual absl::Status WakeWaiting() = 0;
  // The move is over with things missing: who waits for one is let go. What it finds is not used. On any thread, also
  // more than once.
  virtual void LetGo() = 0;

  // All is here, and nobody places anything any more.
  virtual absl::Status Settle() = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PLACING_INCOMING_PART_H_
