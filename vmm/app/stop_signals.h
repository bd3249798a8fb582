// SIGINT, SIGTERM and SIGHUP: the first asks the program to end, the second ends it.
#ifndef FERRITE_VMM_APP_STOP_SIGNALS_H_
#define FERRITE_VMM_APP_STOP_SIGNALS_H_

#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace ferrite {

// From when it was made, the first of these signals that comes can be read here, and gives all of them their ordinary
// effect again: a person who asks twice means it. That needs nobody who reads: the second signal ends the process
// whatever its main thread is in the middle of, or waits for in vain (a file of somebody else's, say). A signal that is
// ignored (nohup) stays so.
//
// Made on the main thread before any other thread; those have every signal blocked (base/thread.h). One in a
// process. The first signal interrupts no system call of the main thread but those that are never restarted
// (signal(7): poll among them).
class StopSignals {
 public:
  static absl::StatusOr<StopSignals> Create();
  StopSignals(StopSignals&&) = default;
  ~StopSignals();

  // Readable when a signal has come.
  int fd() const { return wake_.fd(); }
  // The name of the signal that came.
  std::string Take();
  // Gives the next signal its ordinary effect without one having come.
  void LetThrough();

 private:
  explicit StopSignals(EventFd wake) : wake_(std::move(wake)) {}

  EventFd wake_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_STOP_SIGNALS_H_
