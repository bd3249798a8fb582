// The ferrite program as a child process, for tests.
#ifndef FERRITE_TESTS_FAKES_FERRITE_PROCESS_H_
#define FERRITE_TESTS_FAKES_FERRITE_PROCESS_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "tests/fakes/child_process.h"

namespace ferrite {

struct Finished {
  int exit_code = -1;  // -1: ended by a signal, or killed at the deadline
  std::string out;
  std::string err;
};

// Killed when it still runs at the end of its owner. Standard input is /dev/null; standard output and error are files
// without names, so that no reader is needed.
class FerriteProcess {
 public:
  // `user` other than 0 runs it as that user, when this process may change users. `in_child` (may be null) runs before
  // the program does. `path` is the program's, in the test's data.
  explicit FerriteProcess(const std::vector<std::string>& words, uid_t user = 0,
                          const std::function<void()>& in_child = nullptr, const char* path = "vmm/app/ferrite");

  pid_t pid() const { return child_.pid(); }
  void Signal(int signal) const { child_.Signal(signal); }
  bool HasEnded() const { return child_.HasEnded(); }
  // What it has written to standard output until now.
  std::string OutputSoFar() const;
  Finished Wait();

 private:
  const Fd out_;
  const Fd err_;
  ChildProcess child_;
};

// Runs ferrite to its end.
Finished RunFerrite(const std::vector<std::string>& words, uid_t user = 0);

// A `ferrite receive`, and the address at which it waits; empty where it ended instead.
struct FerriteReceiver {
  std::unique_ptr<FerriteProcess> process;
  std::string address;
};

// Runs ferrite with `words`, which are those of `receive` but for --ready-fd. The rest is as of FerriteProcess. Returns
// when it waits, or has ended.
FerriteReceiver StartFerriteReceiver(std::vector<std::string> words, const std::function<void()>& in_child = nullptr,
                                     const char* path = "vmm/app/ferrite");

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_FERRITE_PROCESS_H_
