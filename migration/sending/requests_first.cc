#include "migration/sending/requests_first.h"

#include "absl/synchronization/mutex.h"

namespace ferrite::migration {

void RequestsFirst::LetPass(const Clock& clock) {
  // Almost always nobody asks.
  if (answering_.load() == 0) {
    return;
  }
  waiting_.fetch_add(1);
  {
    const TimedMutexLock lock(&mutex_);
    const auto none = [this] { return answering_.load() == 0; };
    (void)mutex_.AwaitFor(clock, absl::Condition(&none), kMost);
  }
  waiting_.fetch_sub(1);
}

void RequestsFirst::EndOne() {
  if (answering_.fetch_sub(1) == 1 && waiting_.load() > 0) {
    // Who gives it up wakes them.
    const TimedMutexLock lock(&mutex_);
  }
}

}  // namespace ferrite::migration
