// A program that goes to the background once it runs.
#ifndef FERRITE_VMM_APP_DETACH_H_
#define FERRITE_VMM_APP_DETACH_H_

#include <sys/types.h>

#include <functional>

#include "absl/status/statusor.h"

namespace ferrite {

// Runs `body` in a child process of a session of its own, without the caller's terminal, standard input and output,
// other descriptors and directory; its standard error stays until it calls `ready`. The child ends with what `body`
// returns.
//
// Returns the child's process id once it is ready; or the exit code of one that ended before (it has told why on
// standard error). Call it while this process has one thread.
struct Detached {
  pid_t pid = 0;
  int exit_code = 0;
  bool ready = false;
};
absl::StatusOr<Detached> RunDetached(const std::function<int(const std::function<void()>& ready)>& body);

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_DETACH_H_
