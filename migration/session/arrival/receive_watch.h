// Where an arrival waits for the pages that its other threads receive.
#ifndef FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVE_WATCH_H_
#define FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVE_WATCH_H_

#include <atomic>
#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/timed_mutex.h"

namespace ferrite::migration {

// Threads: any.
class ReceiveWatch {
 public:
  // `clock` outlives it.
  explicit ReceiveWatch(const Clock& clock) : clock_(clock) {}

  // No channel has ended so far.
  void Begin() { ended_channels_ = 0; }
  // The pages of one more channel have all come, or it broke, and the others go on.
  void EndChannel() {
    ++ended_channels_;
    Wake();
  }
  // One of those goes on.
  void ReopenChannel() { --ended_channels_; }
  size_t ended_channels() const { return ended_channels_; }

  // Waits until `over`, not longer than `limit`; whether it is. It is asked again at each Wake(), so it depends on
  // nothing that changes without one.
  bool Await(absl::FunctionRef<bool()> over, absl::Duration limit) {
    const TimedMutexLock lock(&mutex_);
    const auto is_over = [&] { return over(); };
    return mutex_.AwaitFor(clock_, absl::Condition(&is_over), limit);
  }
  // What somebody waits for may have come. The change was made before.
  void Wake() { const TimedMutexLock lock(&mutex_); }

 private:
  const Clock& clock_;
  TimedMutex mutex_;
  std::atomic<size_t> ended_channels_{0};
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_ARRIVAL_RECEIVE_WATCH_H_
