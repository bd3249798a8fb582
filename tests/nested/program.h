// A program that a test runs as a person would: started with arguments, talked to through pipes, waited for.
#ifndef FERRITE_TESTS_NESTED_PROGRAM_H_
#define FERRITE_TESTS_NESTED_PROGRAM_H_

#include <sys/types.h>

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

// Not thread-safe. Killed when it still runs at the end of its owner.
class Program {
 public:
  // Starts `arguments[0]`. Standard error goes to the same pipe as standard output. Everything that is read is also
  // appended to the file `transcript` (none when empty).
  static absl::StatusOr<std::unique_ptr<Program>> Start(const std::vector<std::string>& arguments,
                                                        const std::string& transcript = "");
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Reads until `text` has come and returns what came before it; both are consumed. The error tells what came instead:
  // DEADLINE_EXCEEDED when time is up, OUT_OF_RANGE when the program closed its output.
  absl::StatusOr<std::string> ReadUntil(absl::string_view text, absl::Duration deadline);
  absl::Status Write(absl::string_view text);
  // Waits for the end. The exit code, or 128 + the signal's number.
  absl::StatusOr<int> Wait(absl::Duration deadline);
  // Everything read and not consumed; complete after Wait().
  const std::string& output() const { return unread_; }
  pid_t pid() const { return child_.pid(); }

 private:
  Program(ChildProcess child, Fd input, Fd output, Fd transcript);
  // Waits for more output or the end of it. False at the end.
  absl::StatusOr<bool> ReadMore(MonotonicTime until);

  ChildProcess child_;
  Fd input_;
  const Fd output_;
  const Fd transcript_;
  std::string unread_;
};

// Runs a program to its end. DEADLINE_EXCEEDED when it takes longer; it is killed then.
struct Finished {
  int code;
  std::string output;
};
absl::StatusOr<Finished> RunProgram(const std::vector<std::string>& arguments, absl::Duration deadline);

}  // namespace ferrite

#endif  // FERRITE_TESTS_NESTED_PROGRAM_H_
