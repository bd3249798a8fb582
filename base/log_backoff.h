// How often to log what may go on for ever.
#ifndef FERRITE_BASE_LOG_BACKOFF_H_
#define FERRITE_BASE_LOG_BACKOFF_H_

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "base/monotonic.h"

namespace ferrite {

// The first time at once; after each line a pause, of a second first and of an hour in the end, each twice as long as
// the one before. Threads: one at a time.
class LogBackoff {
 public:
  // It happened at `now`. When it is to be logged: how often it happened, without being logged, since the last line.
  std::optional<uint64_t> Count(MonotonicTime now);

 private:
  MonotonicTime next_ = MonotonicTime::InfinitePast();
  absl::Duration pause_ = absl::Seconds(1);
  uint64_t not_logged_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_LOG_BACKOFF_H_
