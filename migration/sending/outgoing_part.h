// A thing that is moved, as the source has it: memory, a disk.
#ifndef FERRITE_MIGRATION_SENDING_OUTGOING_PART_H_
#define FERRITE_MIGRATION_SENDING_OUTGOING_PART_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/monotonic.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"
#include "migration/api/machine_spec.h"
#include "migration/sending/page_sender.h"

namespace ferrite::migration {

// Its regions are made of pages of 4 KiB that have a state at each moment. Which of them are still to be sent, and in
// which order, is decided for all parts of a move together (PageSource); a part says what was written, and sends what
// it is told to. `region` counts its own regions from 0.
//
// Errors are never UNAVAILABLE or OUT_OF_RANGE: those say that the connection is lost, and it is looked for again.
//
// Threads: Send() from any, for pages that do not overlap; LetGo() from one of its own; the rest from the move's.
class OutgoingPart {
 public:
  virtual ~OutgoingPart() = default;

  // For messages: "memory".
  virtual absl::string_view name() const = 0;
  // As MACHINE tells them; the same each time, but for Decline(). Whole pages: the size of what is no multiple of them
  // is rounded up, and what is behind its end is zero here, and is not written there.
  virtual std::vector<MachineSpec::Region> regions() const = 0;

  // Whether it is mirrored, as a disk is: copied until it is *ready* before memory's rounds begin, kept up with from
  // then on, and sent to its end while the guest stands still. In no mode is anything of it missing behind the
  // switchover: post-copy is for memory. The destination's part says the same (IncomingPart::mirrored()). The same each
  // time.
  virtual bool mirrored() const { return false; }
  // It was offered to be mirrored, and is not to be: both sides reach it. It has no regions from here on, and nothing
  // of it is asked for any more. Before StartTracking().
  virtual void Decline() {}

  // From here on all that is written is found by CollectDirty(), once it is done: also what was begun before.
  virtual absl::Status StartTracking() = 0;
  virtual void StopTracking() = 0;
  // Adds the pages written since the last call (or the start) to `dirty`, and forgets them.
  virtual absl::Status CollectDirty(size_t region, PageBitmap& dirty) = 0;
  // Adds pages that are zero, or that nobody needs, to `skipped`, without reading them. Called when writes are tracked.
  virtual absl::Status AddSkipped(size_t region, PageBitmap& skipped) = 0;

  // --- Of one that is mirrored ---

  // It is written faster than it is copied. From `on` on, until off: who writes to it is answered when the other side
  // has what was written (Delivered()). Off, before the guest is stopped or when the move is over: all who wait are
  // answered at once. Whether it does so; if none does, the move fails. Off does not fail.
  virtual bool SetBlocking(bool /*on*/) { return false; }
  // The other side has all that CollectDirty() has told so far: not what was noted since the last call of that, also
  // before SetBlocking(). Called while it is blocking.
  virtual void Delivered() {}
  // Who waits since `since` or before has waited for long, and is answered though it has not arrived; what is written
  // next is held again. Since when the first of the others waits; InfiniteFuture when nobody does. Called while it is
  // blocking, beside all but SetBlocking() and Delivered(): waits for none of it, and throws nothing. By the clock of
  // Host.
  virtual MonotonicTime LetGo(MonotonicTime /*since*/) { return MonotonicTime::InfiniteFuture(); }

  // ---

  // Sends all pages of `run`, whose region is `region` here, in whole units where they have data: from where they are
  // in memory (PageSender::SendRun()), or read for it (SendRead()). Called also behind GRANT, when the guest's
  // resources are released: what it reads from is its own.
  virtual absl::Status Send(PageSender& sender, size_t region, const PageRange& run, uint64_t pages_per_unit) = 0;

  // The hardware lost the page of memory that holds `address` (R9): it is never read again. Which one it is, `region`
  // being counted from 0; none when it is no memory of this part. Threads: any.
  virtual std::optional<PageRange> FoundLost(const uint8_t* /*address*/) { return std::nullopt; }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_OUTGOING_PART_H_
