// A thread that runs what blocks, in turn, for a kj event loop that must not.
#ifndef FERRITE_VMM_CONTROL_WORK_QUEUE_H_
#define FERRITE_VMM_CONTROL_WORK_QUEUE_H_

#include <kj/async.h>
#include <kj/function.h>

#include <cstddef>
#include <deque>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/thread.h"

namespace ferrite {

class WorkQueue {
 public:
  explicit WorkQueue(std::string thread_name);
  ~WorkQueue() { Close(); }

  // From a thread with a kj event loop: a promise of what `work` returns; RESOURCE_EXHAUSTED when kMaxQueued wait,
  // UNAVAILABLE after Close(). Dropping the promise does not stop the work.
  kj::Promise<absl::Status> Run(kj::Function<absl::Status()> work);

  // Runs what is queued, then ends the thread. The loops that wait for the results must still run.
  void Close();

 private:
  static constexpr size_t kMaxQueued = 64;

  // Waits for work; null when there is none left and the queue is closed.
  kj::Maybe<kj::Function<void()>> Take();
  void Loop();

  absl::Mutex mutex_;
  std::deque<kj::Function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_WORK_QUEUE_H_
