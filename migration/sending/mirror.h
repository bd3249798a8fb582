// Copying a disk while it is written to.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/monotonic.h"
#include "migration/api/block_io.h"
#include "migration/api/mirror_options.h"

namespace ferrite::migration {

// Makes `target` equal to `source`, which somebody writes to meanwhile and tells of it. (Follows the mirror job of
// QEMU's "Live Block Device Operations".)
//
// It has no thread and no clock: whoever has it calls Turn() when something ended, was written or was asked for, and at
// the latest when Turn() said. Ends of operations are taken in as they come; Turn() decides and starts.
//
// Copying goes by chunks of the granularity; that of a source or a target with larger blocks is raised to a block. A
// target's cluster that is larger is written whole the first time. A write that is held goes before all others and
// without regard to the rate limit; where its chunks were clean, what was written is copied alone.
//
// Writes are held while the copy mode is write-blocking and it is running, ready or completing, but not during the
// back-off after an error that is ignored: what is written then is dirty as in the background. Neither is a write that
// comes while HeldWrites::kMost are held. Ready is for good, until it is paused: resumed it is running, and ready anew
// when what is left fits. Who wants to drain it waits until MirrorFigures::fits_downtime says so of that time: it turns
// to write-blocking in ready as before. What could not be copied the last time, whatever its error's policy, does not
// fit before it was.
//
// A held write waits for 2 s at most, from the turn that finds it: then all are let go, and their chunks stay dirty,
// and none is held until an operation at the target has succeeded. The copy mode stays what it is.
//
// Errors are treated by the policies, but for two of the target that nothing mends, which fail the mirror whatever the
// policy: a flush that fails (what the next one says is worth nothing: the host tells of a lost write once), and
// UNAVAILABLE, a target that is lost for good. (The first follows page_cache_inconsistent of QEMU's file-posix.c.)
//
// Threads: Wrote() and figures() on any; the rest on the thread of both BlockIos. `source`, `target` and `listener`
// outlive it. The destructor runs while idle().
class Mirror {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // Turn() is to be called soon: something was written, or ended. On any thread, with no lock held; it blocks for
    // nothing and takes no lock that is held over a call of the mirror.
    virtual void TurnSoon() = 0;
    // The write that Wrote() gave `ticket` to is at the target, or the mirror does not hold writes any more: it may be
    // answered. On the mirror's thread, once for each ticket.
    virtual void Answer(uint64_t ticket) = 0;
  };

  // INVALID_ARGUMENT for options that cannot be, FAILED_PRECONDITION for a source that is larger than the target or for
  // block sizes that do not fit, RESOURCE_EXHAUSTED without memory for the buffer.
  static absl::StatusOr<std::unique_ptr<Mirror>> Create(BlockIo& source, BlockIo& target, const MirrorOptions& options,
                                                        Listener& listener);
  virtual ~Mirror() = default;

  // A guest's write, discard or write-zeroes of [offset, offset + bytes) was done at the source and was not answered
  // yet. Returns 0 when it may be answered, else a ticket, and Answer() follows. Throws nothing, takes no memory of a
  // size that the guest chooses, waits for nothing.
  virtual uint64_t Wrote(uint64_t offset, uint64_t bytes) = 0;

  // Starts what may be started at `now`, which does not go back; returns when to be called again at the latest, which
  // may be `now`. The first call is the start.
  virtual MonotonicTime Turn(MonotonicTime now) = 0;

  // running, ready → paused, and back; of an error's pause, too (one while completing goes back to completing). Nothing
  // new is started while paused; held writes are let go, as they are by every end. FAILED_PRECONDITION in other states.
  virtual absl::Status Pause() = 0;
  virtual absl::Status Resume() = 0;
  // 0: no limit. Of what is copied in the background; zeroes count for nothing.
  virtual void SetMaxBandwidth(uint64_t bytes_per_second) = 0;
  // Who asks for kBackground has it: it does not turn to write-blocking by itself any more.
  virtual void SetCopyMode(CopyMode mode) = 0;

  // ready → completing: nobody writes to the source from here on (until the mirror is over or WithdrawDrain()). What is
  // left is copied without regard to the rate limit, then the target is flushed → completed. FAILED_PRECONDITION in
  // other states, and while some of what is left could not be copied the last time. An error that is ignored withdraws
  // it: nobody stands still for what is tried again later.
  virtual absl::Status Drain() = 0;
  // completing → ready: somebody writes again. An error's pause while completing is one of a mirror that is not, then.
  // FAILED_PRECONDITION without Drain(), after one that an error has withdrawn, and when it has completed or failed.
  virtual absl::Status WithdrawDrain() = 0;
  // → cancelled; what is in flight ends. FAILED_PRECONDITION when it is over.
  virtual absl::Status Cancel() = 0;

  // Nothing of it is in flight. It is over (completed, cancelled, failed) and idle: may be destroyed.
  virtual bool idle() const = 0;
  // What figures() says of them, for who looks after each turn: that one adds all of it up.
  virtual MirrorState state() const = 0;
  virtual CopyMode copy_mode() const = 0;
  virtual MirrorFigures figures(MonotonicTime now) const = 0;
  // Of kFailed: the first error that was not ignored.
  virtual absl::Status error() const = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_H_
