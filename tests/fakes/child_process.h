// A program as a child process of a test or a benchmark.
#ifndef FERRITE_TESTS_FAKES_CHILD_PROCESS_H_
#define FERRITE_TESTS_FAKES_CHILD_PROCESS_H_

#include <sys/resource.h>
#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"

namespace ferrite {

// How a child ended.
struct ChildEnd {
  bool exited = false;  // else by a signal
  int number = 0;       // the exit code, or the signal
  rusage usage{};       // of all its life
};

// Killed and reaped with its owner. One thread; Signal(): any.
class ChildProcess {
 public:
  struct Options {
    // What become its standard descriptors; -1: /dev/null.
    int input = -1;
    int output = -1;
    int error = -1;
    // Of the program; else arguments[0] is its path.
    int program = -1;
    // Runs in the child before the program. Without it and `program` this process is not copied, which takes its time.
    std::function<void()> in_child = nullptr;
  };

  // A program that cannot be run ends with code 127, or is an error here.
  static absl::StatusOr<ChildProcess> Start(const std::vector<std::string>& arguments, const Options& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess();

  // -1 when it was waited for.
  pid_t pid() const { return pid_; }
  // Readable (poll(2)) when it has ended.
  const Fd& pidfd() const { return pidfd_; }
  // Nothing where it was waited for.
  void Signal(int signal) const;
  bool HasEnded() const;
  // DEADLINE_EXCEEDED when it has not ended by then: it runs on.
  absl::StatusOr<ChildEnd> Wait(absl::Duration limit = absl::InfiniteDuration());

 private:
  ChildProcess(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

  pid_t pid_;
  Fd pidfd_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_CHILD_PROCESS_H_
