// Which of the page channels live behind the switchover, and when they have nothing more to send.
#ifndef FERRITE_MIGRATION_SENDING_LIVE_CHANNELS_H_
#define FERRITE_MIGRATION_SENDING_LIVE_CHANNELS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "base/timed_mutex.h"
#include "memory/page_bitmap.h"
#include "memory/page_range.h"

namespace ferrite::migration {

// A channel that breaks while others live takes with it what was on its way. It is *settled* when its thread sends
// nothing any more and the other side has said all that it misses: what of that this channel had is pending again. So
// nobody is done before all that broke are settled, and who was done goes on where there is more. Threads: any.
class LiveChannels {
 public:
  // Makes pending again what `channel` had claimed and is among `missing`, which comes in pieces. Called under the lock
  // of this.
  using TakeBack = std::function<void(size_t channel, std::span<const PageRange> missing, bool last)>;
  // `region_pages`: of what the other side can miss.
  LiveChannels(size_t channels, std::vector<uint64_t> region_pages, TakeBack take_back)
      : channels_(channels), region_pages_(std::move(region_pages)), take_back_(std::move(take_back)) {}

  // Each has a thread from here on, those that broke before among them: it finds that out by itself.
  void Begin();

  // --- One that breaks ---

  enum class Break {
    kFirst,  // nobody knew so far
    kKnown,  // it was known to be broken
    kLast,   // no other one lives: it is the connection that is lost
  };
  Break Lose(size_t channel);
  // What the other side misses, in pieces; all of it are pages that there are. Wrong where the last one came before, or
  // there is more than can be.
  enum class Told { kTaken, kSettled, kWrong };
  Told AddMissing(size_t channel, std::span<const PageRange> missing, bool last);
  // The thread of a channel uses it no more. Whether the channel is settled by that.
  bool EndThread(size_t channel);
  size_t living() const;
  bool lives(size_t channel) const;

  // --- A thread that claims ---

  // Of the times that something became pending again. Before it looks.
  uint64_t returns() const { return returns_; }
  // Waits until the time has come, or something has happened. Whether to look again: something has become pending since
  // `seen`.
  bool RestUntil(size_t channel, uint64_t seen, const Clock& clock, MonotonicTime until);

  // --- One that finds nothing to claim ---

  // Waits for those to be settled that broke. Whether to look again; false: nothing has become pending since `seen`,
  // and nothing will because of them.
  bool AwaitSettled(size_t channel, uint64_t seen);
  // The channel has sent all. Waits until something is pending again: true, or until there is an end: false.
  bool AwaitMore(size_t channel, uint64_t seen);

  // Waits until all that live have sent all, or there is an end, or none was begun.
  void AwaitAll() const;
  // Whoever waits goes on.
  void End();
  bool ended() const;

 private:
  struct Channel {
    bool broken = false;
    bool has_thread = false;
    bool told = false;  // all that is missing
    bool settled = false;
    std::optional<uint64_t> done_at;  // it has sent all: returns() before that
    std::vector<PageBitmap> missing;  // by region, when there is something: a bit a page, however it is told (R11)
    uint64_t missing_pages = 0;
  };
  bool MaySettle(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeBackMissing(size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AllSettled() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable TimedMutex mutex_;
  std::vector<Channel> channels_ ABSL_GUARDED_BY(mutex_);
  const std::vector<uint64_t> region_pages_;
  const uint64_t most_pages_ = std::accumulate(region_pages_.begin(), region_pages_.end(), uint64_t{0});
  const TakeBack take_back_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<uint64_t> returns_ = 0;  // changed under the lock
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_LIVE_CHANNELS_H_
