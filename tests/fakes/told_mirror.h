// What was told last of a mirror's job, and whoever waits for more.
#ifndef FERRITE_TESTS_FAKES_TOLD_MIRROR_H_
#define FERRITE_TESTS_FAKES_TOLD_MIRROR_H_

#include <gtest/gtest.h>

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "migration/api/mirror_options.h"
#include "vmm/mirror/mirror_job.h"

namespace ferrite {

// Threads: any. It outlives the job.
class ToldMirror {
 public:
  MirrorJob::Listener Listener() {
    return [this](const MirrorStatus& mirror) {
      const absl::MutexLock lock(&mutex_);
      last_ = mirror;
    };
  }
  // The first of which `is` is true; the last at the deadline, with a failure.
  MirrorStatus Await(const std::function<bool(const MirrorStatus&)>& is) {
    const absl::MutexLock lock(&mutex_);
    const auto there = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return is(last_); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience))
        << migration::MirrorStateName(last_.figures.state) << ", " << last_.figures.dirty_bytes << " bytes are left; "
        << last_.figures.cause << last_.result;
    return last_;
  }
  MirrorStatus AwaitState(migration::MirrorState state) {
    return Await([state](const MirrorStatus& mirror) { return mirror.figures.state == state; });
  }
  MirrorStatus AwaitOver() {
    return Await([](const MirrorStatus& mirror) { return mirror.over; });
  }

 private:
  static constexpr absl::Duration kPatience = absl::Seconds(60);

  absl::Mutex mutex_;
  MirrorStatus last_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TOLD_MIRROR_H_
