// What an error of one side of a mirror leads to.
#ifndef FERRITE_MIGRATION_SENDING_MIRROR_BACKOFF_H_
#define FERRITE_MIGRATION_SENDING_MIRROR_BACKOFF_H_

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/mirror_options.h"

namespace ferrite::migration {

enum class ErrorAction { kFail, kWait, kStop };

// kWait for kIgnore; kEnospc stops for RESOURCE_EXHAUSTED and fails for the rest.
ErrorAction ActionFor(ErrorPolicy policy, const absl::Status& error);

// When one side is tried again after an error that was ignored: after 100 ms, and twice as long each time, up to 10 s,
// until something succeeds. Threads: one at a time.
class MirrorBackoff {
 public:
  static constexpr absl::Duration kFirst = absl::Milliseconds(100);
  static constexpr absl::Duration kMost = absl::Seconds(10);

  // What was in flight together fails together: it counts once.
  void Failed(MonotonicTime now);
  void Succeeded();
  // Not before.
  MonotonicTime retry_at() const { return retry_at_; }

 private:
  MonotonicTime retry_at_ = MonotonicTime::InfinitePast();
  absl::Duration next_ = kFirst;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_MIRROR_BACKOFF_H_
