// How much of a mirror is at its disks at a time.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_WINDOW_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_WINDOW_H_

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {

// What a disk has been given waits there, and the guest's own writes wait behind it: more than keeps the disk busy
// makes nothing faster but all others slower. So the bytes that are in flight follow the time that they take: as many
// as make it half as much again, and a millisecond, as it is with hardly anything before it. (Brakmo and Peterson, "TCP
// Vegas", 1995, of a path's queue.) What is measured is in rounds, of a window each; a round makes it twice as large at
// the most, or half.
//
// However little is in flight, a disk's scheduler may serve what follows on itself first, for as long as there is
// always some of it (Linux' mq-deadline: in the order of sectors, until a request is 5 s old): then a guest's write
// waits for all of the mirror's data that lies in one piece. So while the guest writes, the disks are let empty each
// two windows.
//
// Threads: one at a time.
class MirrorWindow {
 public:
  // Begins with `least` bytes, which are one operation, and has no less, and no more than `most`.
  MirrorWindow(uint64_t least, uint64_t most);

  uint64_t bytes() const { return bytes_; }
  // Whether more may be started beside the bytes that are `in_flight`. The guest has made `guest_writes` so far.
  bool TakesMore(uint64_t in_flight, uint64_t guest_writes);
  // So much was started.
  void Began(uint64_t bytes) { burst_bytes_ += bytes; }
  // An operation of `bytes` took so long, from its start to its end.
  void Note(uint64_t bytes, absl::Duration took);

 private:
  const uint64_t least_;
  const uint64_t most_;
  uint64_t bytes_;
  bool was_full_ = false;      // more would have been started: it may grow
  uint64_t burst_bytes_ = 0;   // since the disks were empty, or nobody waited
  uint64_t guest_writes_ = 0;  // until then
  // Of this round.
  uint64_t noted_bytes_ = 0;
  absl::Duration noted_time_;
  int64_t noted_ = 0;
  int rounds_ = 0;
  uint64_t probed_from_ = 0;                        // what this round with one operation interrupted, or 0
  absl::Duration base_ = absl::InfiniteDuration();  // with hardly anything before it
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_WINDOW_H_
