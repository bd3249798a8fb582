// An interrupt line that counts.
#ifndef FERRITE_TESTS_FAKES_FAKE_INTERRUPT_LINE_H_
#define FERRITE_TESTS_FAKES_FAKE_INTERRUPT_LINE_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "devices/bus/device.h"

namespace ferrite {

// Threads: any.
class FakeInterruptLine final : public InterruptLine {
 public:
  void Trigger() override {
    TimedMutexLock lock(&mutex_);
    ++count_;
  }

  uint64_t count() const {
    TimedMutexLock lock(&mutex_);
    return count_;
  }

  // Returns the count and starts again at zero.
  uint64_t Take() {
    TimedMutexLock lock(&mutex_);
    const uint64_t count = count_;
    count_ = 0;
    return count;
  }

  // Waits until it was triggered `count` times in all; false when that took longer than `deadline`.
  bool WaitFor(uint64_t count, absl::Duration deadline = absl::Seconds(30)) const {
    TimedMutexLock lock(&mutex_);
    const auto reached = [this, count]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return count_ >= count; };
    return mutex_.AwaitFor(absl::Condition(&reached), deadline);
  }

 private:
  mutable TimedMutex mutex_;
  uint64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FAKE_INTERRUPT_LINE_H_
