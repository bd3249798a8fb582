// How much a page channel takes on at a time behind the switchover.
#ifndef FERRITE_MIGRATION_SENDING_BULK_SIZE_H_
#define FERRITE_MIGRATION_SENDING_BULK_SIZE_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/monotonic.h"

namespace ferrite::migration {

// A page that somebody waits for has a channel of its own, and yet waits for the bulk that is before it on the line:
// two claims of each page channel. So a claim is small where they make each other wait there: on a line that is slow
// for what they have to send, or that has many of them. Elsewhere small ones would only cost: each wakes a thread at
// either end (docs/performance.md).
//
// A line on which there is a queue carries no less with small claims. Where it is processors that are short, answers
// are late, too, and small claims make it worse. So where they are small the largest ones are tried now and then, and
// stay for a while if much more goes with them.
//
// One for all page channels of a move. Threads: any.
class BulkSize {
 public:
  // Pages.
  static constexpr uint64_t kLeast = 4;
  static constexpr uint64_t kMost = 128;
  // Claims smaller than this are doubted. The first ones are as large: they go before anything is known, when the guest
  // waits most.
  static constexpr uint64_t kFirst = kMost / 8;
  // How long what goes is to wait for what went before it.
  static constexpr absl::Duration kAim = absl::Milliseconds(1);
  // Large claims are worth it where small ones carry less than this share.
  static constexpr double kWorth = 0.75;
  // For how long small ones are before large ones are tried, and those are when they are found worth it: twice as long
  // with each time that it comes out the same. A trial that comes to nothing is a tenth of that at most.
  static constexpr absl::Duration kFirstSmall = absl::Milliseconds(500);
  static constexpr absl::Duration kFirstLarge = absl::Seconds(4);
  static constexpr absl::Duration kLongest = absl::Seconds(32);
  // A trial: so long, and two claims of each channel, until what went before it is through, and then to be measured.
  static constexpr absl::Duration kTrial = absl::Milliseconds(50);

  // `clock` outlives it.
  BulkSize(const Clock& clock, size_t channels) : clock_(clock), trial_claims_(2 * channels), due_(clock.Now()) {}

  uint64_t pages() const;
  // A claim has gone. `delay`: how long it waits on the line (PageSink::QueueDelay()); `bytes`: of the whole move, on
  // all channels.
  void Sent(absl::Duration delay, uint64_t bytes);

 private:
  enum class Phase { kSmall, kSettling, kTrying, kLarge };

  void Adapt(absl::Duration delay, MonotonicTime now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Begin(Phase phase, MonotonicTime now, uint64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock& clock_;
  const uint64_t trial_claims_;
  mutable absl::Mutex mutex_;
  uint64_t small_ ABSL_GUARDED_BY(mutex_) = kFirst;  // pages
  MonotonicTime due_ ABSL_GUARDED_BY(mutex_);        // what is measured from then on is of `small_`
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kSmall;
  // Since the phase began; the first one does with the first claim: what went in the rounds is none of its own.
  std::optional<MonotonicTime> from_ ABSL_GUARDED_BY(mutex_);
  uint64_t from_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t claims_ ABSL_GUARDED_BY(mutex_) = 0;

  double small_rate_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes a second, before the trial
  absl::Duration small_for_ ABSL_GUARDED_BY(mutex_) = kFirstSmall;
  absl::Duration large_for_ ABSL_GUARDED_BY(mutex_) = kFirstLarge;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_BULK_SIZE_H_
