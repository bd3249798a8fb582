// Where a library's log lines go: whoever uses the library hands one in.
#ifndef FERRITE_BASE_LOG_SINK_H_
#define FERRITE_BASE_LOG_SINK_H_

#include "absl/strings/string_view.h"

namespace ferrite {

enum class LogLevel {
  kInfo,
  kWarning,  // something is not as it should be, and goes on
  kError,    // something that was asked for is not done
};

// Threads: any.
class LogSink {
 public:
  virtual ~LogSink() = default;
  // Takes one line without its end. Throws nothing and blocks for no peer: a line that cannot be written is dropped.
  virtual void Write(LogLevel level, absl::string_view line) = 0;

  void Info(absl::string_view line) { Write(LogLevel::kInfo, line); }
  void Warn(absl::string_view line) { Write(LogLevel::kWarning, line); }
  void Error(absl::string_view line) { Write(LogLevel::kError, line); }
};

}  // namespace ferrite

#endif  // FERRITE_BASE_LOG_SINK_H_
