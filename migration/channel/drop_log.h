// A line of log for each connection that is dropped, each machine that is refused, and each reason that only this
// host's user hears, unless there are too many: strangers cannot fill the log (R11).
#ifndef FERRITE_MIGRATION_CHANNEL_DROP_LOG_H_
#define FERRITE_MIGRATION_CHANNEL_DROP_LOG_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "migration/api/host.h"

namespace ferrite::migration {

// Threads: any.
class DropLog {
 public:
  // Lines at once; after that one in each kPause.
  static constexpr int kMost = 16;
  static constexpr absl::Duration kPause = absl::Seconds(10);

  // `host` outlives it.
  explicit DropLog(const Host& host) : host_(host) {}

  void Log(const std::string& who, absl::string_view why);
  // Of one that said what machine it brings.
  void LogRefusal(const std::string& who, absl::string_view why);
  // `words` alone.
  void Tell(absl::string_view words);
  // How many were hidden since the last line, when a line may be written at `now`.
  std::optional<uint64_t> Take(MonotonicTime now);

 private:
  void Write(absl::string_view words);

  const Host& host_;
  absl::Mutex mutex_;
  int credit_ ABSL_GUARDED_BY(mutex_) = kMost;
  uint64_t hidden_ ABSL_GUARDED_BY(mutex_) = 0;
  MonotonicTime paid_ ABSL_GUARDED_BY(mutex_) = MonotonicTime::InfinitePast();
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_DROP_LOG_H_
