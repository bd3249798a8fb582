// How long threads waited for one of the host's processors.
#ifndef FERRITE_BASE_RUN_DELAY_H_
#define FERRITE_BASE_RUN_DELAY_H_

#include <sys/types.h>

#include <vector>

#include "absl/time/time.h"
#include "base/fd.h"

namespace ferrite {

// Of one thread of this process: the kernel's run delay (Documentation/scheduler/sched-stats.rst,
// "/proc/<pid>/schedstat"). Move-only.
class RunDelay {
 public:
  // By the thread's id. Where the kernel does not tell, no time ever passes.
  explicit RunDelay(pid_t thread);

  // Since the thread began, without a wait that is not over yet. Any thread.
  absl::Duration Read() const;

 private:
  Fd file_;
};

// Of the threads that a guest waits for while it stands still, from a moment on.
class RunDelays {
 public:
  // From now on: of `worker`, and of `vcpus`.
  RunDelays(pid_t worker, const std::vector<pid_t>& vcpus);

  // The worker's, and the longest of the vCPUs', which wait at the same time.
  absl::Duration Read() const;

 private:
  struct Since {
    explicit Since(pid_t thread) : delay(thread), before(delay.Read()) {}
    absl::Duration Read() const { return delay.Read() - before; }
    RunDelay delay;
    absl::Duration before;
  };
  Since worker_;
  std::vector<Since> vcpus_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_RUN_DELAY_H_
