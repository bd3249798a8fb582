// Which of the open page channels the rounds go over.
#ifndef FERRITE_MIGRATION_SENDING_CHANNEL_TURNS_H_
#define FERRITE_MIGRATION_SENDING_CHANNEL_TURNS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "migration/sending/channel_count.h"

namespace ferrite::migration {

// All of them, or the first ones, as many as help (ChannelCount). What is measured are parts of a round over memory, in
// each of which as many are used all the time, and of which most pages go with their bytes: of pages that are zero a
// processor finds more than any link carries. The part behind each change says nothing: what goes in it fills the
// kernel's buffers. A pause between two rounds that they do not run empty in ends no part: while a guest writes much,
// each of its rounds is shorter than one.
//
// It outlives the connections of a move. Threads: any; Begin() while nobody sends.
class ChannelTurns {
 public:
  static constexpr absl::Duration kPart = absl::Milliseconds(250);
  // How long may be paused in a part, between two rounds and in all.
  static constexpr absl::Duration kPause = absl::Milliseconds(25);

  // `open`: how many there are. `counted`: those are used that help. `limit`: the bytes/s that may be sent, 0: any;
  // what a part has beyond it was saved up before. `clock` outlives it.
  ChannelTurns(const Clock& clock, size_t open, bool counted, uint64_t limit = 0)
      : clock_(clock), open_(open), counted_(counted), limit_(limit), count_(open) {
    used_ = counted ? count_.now() : open;
  }

  // A round begins. Without `counts` it goes over all.
  void Begin(bool counts);
  // Waits until the channel of that index is used, or the round is over: false.
  bool Await(size_t channel);
  // One has sent what it had claimed, `data_pages` of that with their bytes.
  void Sent(uint64_t pages, uint64_t data_pages, uint64_t bytes);
  // Nothing more of the round is claimed.
  void End();

  bool counted() const { return counted_; }
  // How many are used of those that are open.
  size_t used() const { return used_; }
  // How many this round goes over.
  size_t in_round() const { return all_ ? open_ : used_.load(); }
  // What was measured, bytes/s: over one, two, and so on.
  std::vector<double> rates() const;

 private:
  struct Part {
    MonotonicTime start;
    uint64_t pages = 0;
    uint64_t data_pages = 0;
    uint64_t bytes = 0;
    absl::Duration paused;
  };

  const Clock& clock_;
  const size_t open_;
  const bool counted_;
  const uint64_t limit_;
  std::atomic<size_t> used_;
  std::atomic<bool> measures_{false};
  std::atomic<bool> all_{false};  // in this round
  mutable TimedMutex mutex_;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  bool counts_ ABSL_GUARDED_BY(mutex_) = false;  // in this round, or the last one
  MonotonicTime ended_ ABSL_GUARDED_BY(mutex_);  // that one
  bool settles_ ABSL_GUARDED_BY(mutex_) = true;  // in the part behind a change
  ChannelCount count_ ABSL_GUARDED_BY(mutex_);
  Part part_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CHANNEL_TURNS_H_
