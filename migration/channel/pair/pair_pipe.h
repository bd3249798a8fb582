// What the ends of a pair of channels share: one direction of it.
#ifndef FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PIPE_H_
#define FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PIPE_H_

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/timed_mutex.h"

namespace ferrite::migration {

// A queue with two ends, either of which may close it. Threads: any; one takes at a time.
template <typename T>
class PairPipe {
 public:
  // `clock` outlives it.
  static absl::StatusOr<std::shared_ptr<PairPipe>> Create(const Clock& clock) {
    absl::StatusOr<EventFd> news = EventFd::Create();
    if (!news.ok()) {
      return news.status();
    }
    return std::shared_ptr<PairPipe>(new PairPipe(clock, *std::move(news)));
  }

  // Puts `item` in when fewer than `most` are in there, for which it waits not longer than `limit`. kLate: it did.
  enum class Put { kDone, kLate, kClosed };
  Put PutIn(T item, size_t most, absl::Duration limit) {
    const TimedMutexLock lock(&mutex_);
    const auto has_room = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || items_.size() < most; };
    if (!mutex_.AwaitFor(clock_, absl::Condition(&has_room), limit)) {
      return Put::kLate;
    }
    if (closed_) {
      return Put::kClosed;
    }
    items_.push_back(std::move(item));
    news_.Signal();
    return Put::kDone;
  }
  bool HasRoom(size_t most) const {
    const TimedMutexLock lock(&mutex_);
    return !closed_ && items_.size() < most;
  }

  // Waits for something to take, not longer than `limit`: whether there is, or the pipe is closed.
  bool Await(absl::Duration limit) const {
    const TimedMutexLock lock(&mutex_);
    const auto has_news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); };
    return mutex_.AwaitFor(clock_, absl::Condition(&has_news), limit);
  }
  // The first one, which counts as being in there until Done(); none when the pipe is closed.
  std::optional<T> Take() {
    const TimedMutexLock lock(&mutex_);
    const auto has_news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); };
    mutex_.Await(absl::Condition(&has_news));
    // What came before the end still comes, unless this side has closed.
    if (items_.empty() || dropped_) {
      return std::nullopt;
    }
    taken_ = true;
    return std::move(items_.front());
  }
  void Done() {
    const TimedMutexLock lock(&mutex_);
    taken_ = false;
    items_.pop_front();
    if (items_.empty() && !closed_) {
      (void)news_.Drain();
    }
  }
  // Waits until all that was put in was taken and is done with, or is dropped: whether it was taken.
  bool AwaitEmpty() {
    const TimedMutexLock lock(&mutex_);
    const auto unused = [this]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !taken_ && (dropped_ || items_.empty()); };
    mutex_.Await(absl::Condition(&unused));
    return items_.empty();
  }

  // Nothing is put in any more.
  void Close() { Close(/*drop=*/false); }
  // Nor is anything taken.
  void CloseAndDrop() { Close(/*drop=*/true); }
  bool dropped() const {
    const TimedMutexLock lock(&mutex_);
    return dropped_;
  }

  // Readable when there is something to take, or the pipe is closed.
  const EventFd& news() const { return news_; }

 private:
  PairPipe(const Clock& clock, EventFd news) : clock_(clock), news_(std::move(news)) {}

  void Close(bool drop) {
    const TimedMutexLock lock(&mutex_);
    closed_ = true;
    dropped_ = dropped_ || drop;
    news_.Signal();
  }

  const Clock& clock_;
  const EventFd news_;
  mutable TimedMutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;  // the first of them is being used
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool dropped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_PAIR_PAIR_PIPE_H_
