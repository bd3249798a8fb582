// A monitor as a process of its own: its console on pipes, its time and its memory measured from outside.
#ifndef FERRITE_BENCH_MONITOR_PROCESS_H_
#define FERRITE_BENCH_MONITOR_PROCESS_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "tests/fakes/child_process.h"

namespace ferrite {

// Killed and reaped with its owner. One thread.
class MonitorProcess {
 public:
  // Starts the program arguments[0]; standard input and output are pipes, standard error goes to /dev/null.
  static absl::StatusOr<std::unique_ptr<MonitorProcess>> Start(std::vector<std::string> arguments);

  pid_t pid() const { return child_.pid(); }
  // Seconds (Now()) just before the process was made.
  double started() const { return started_; }
  // Reads output until `text` has come (what is behind it is kept for the next call); returns when, in Now()'s seconds.
  absl::StatusOr<double> WaitFor(absl::string_view text, absl::Duration timeout);
  // The same; returns the whole line that `text` is in, and reads up to its end.
  absl::StatusOr<std::string> WaitForLine(absl::string_view text, absl::Duration timeout);
  // All that is left, up to the end of its output.
  absl::StatusOr<std::string> ReadToEnd(absl::Duration timeout);
  absl::Status Write(absl::string_view text);
  // Processor time of all its threads so far, or, after WaitForEnd(), in all its life. Seconds.
  double CpuSeconds() const;
  // Waits until it has ended by itself; returns when.
  absl::StatusOr<double> WaitForEnd();
  // Bytes of resident memory now, that of the guest included.
  uint64_t ResidentBytes() const;

 private:
  MonitorProcess(ChildProcess child, Fd input, Fd output, double started)
      : child_(std::move(child)), input_(std::move(input)), output_(std::move(output)), started_(started) {}

  // Reads some more output, up to `deadline`; `wanted` is for the message. False at its end.
  absl::StatusOr<bool> ReadOutput(absl::string_view wanted, MonotonicTime deadline);
  // The same; its end is an error.
  absl::Status ReadSome(absl::string_view wanted, MonotonicTime deadline);

  ChildProcess child_;
  Fd input_;
  Fd output_;
  double started_;
  std::string pending_;
  double cpu_seconds_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_MONITOR_PROCESS_H_
