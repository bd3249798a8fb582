// How much a page channel takes on at a time behind the switchover.
#ifndef FERRITE_MIGRATION_SENDING_BULK_SIZE_H_
#define FERRITE_MIGRATION_SENDING_BULK_SIZE_H_

#include <cstdint>

#include "absl/time/time.h"

namespace ferrite::migration {

// A page that somebody waits for has a channel of its own, and yet waits for the bulk that is before it on the line:
// two claims of each page channel. So a claim is small where they make each other wait there: on a line that is slow
// for what they have to send, or that has many of them. Elsewhere small ones would only cost: each wakes a thread at
// either end (docs/performance.md). Threads: one.
class BulkSize {
 public:
  // Pages.
  static constexpr uint64_t kLeast = 4;
  static constexpr uint64_t kMost = 128;
  // How long what goes is to wait for what went before it, by this channel and others.
  static constexpr absl::Duration kAim = absl::Milliseconds(1);

  uint64_t pages() const { return pages_; }
  // How long it waits now (PageSink::QueueDelay()).
  void Note(absl::Duration delay);

 private:
  // The first ones go before anything is known, when the guest waits most.
  uint64_t pages_ = kMost / 8;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_BULK_SIZE_H_
