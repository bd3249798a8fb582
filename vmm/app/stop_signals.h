// SIGINT, SIGTERM and SIGHUP as a file descriptor.
#ifndef FERRITE_VMM_APP_STOP_SIGNALS_H_
#define FERRITE_VMM_APP_STOP_SIGNALS_H_

#include <csignal>
#include <string>

#include "absl/status/statusor.h"
#include "vmm/base/fd.h"

namespace ferrite {

// While it lives, the signals that ask this process to end are held back and can be read here. Made on the main thread
// before any other thread; those have every signal blocked (vmm/base/thread.h).
class StopSignals {
 public:
  static absl::StatusOr<StopSignals> Create();
  StopSignals(StopSignals&&) = default;

  // Readable when a signal has come.
  int fd() const { return fd_.get(); }
  // The name of the signal that came, after which the next one has its ordinary effect: a person who asks twice means
  // it.
  std::string Take();
  // Gives the next signal its ordinary effect without one having come.
  void LetThrough();

 private:
  explicit StopSignals(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_STOP_SIGNALS_H_
