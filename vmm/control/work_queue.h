// A thread that runs what blocks, in turn, for a kj event loop that must not.
#ifndef FERRITE_VMM_CONTROL_WORK_QUEUE_H_
#define FERRITE_VMM_CONTROL_WORK_QUEUE_H_

#include <kj/async.h>
#include <kj/function.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "base/thread.h"

namespace ferrite {

class WorkQueue {
 public:
  // How much may wait for each kind of turn.
  struct Limits {
    size_t last;
    size_t next;
  };

  explicit WorkQueue(Limits limits) : limits_(limits) {}
  ~WorkQueue() { Close(); }

  // What ends the machine does not wait behind all that clients want done before.
  enum class Turn { kLast, kNext };

  // Once, before the first Run().
  absl::Status Start(std::string thread_name);

  // From a thread with a kj event loop: a promise of what `work` returns; RESOURCE_EXHAUSTED when as much waits for
  // that kind of turn as may, UNAVAILABLE after BeginEnd(). When the promise is dropped, work that has not begun is not
  // done; what has begun goes on.
  kj::Promise<absl::Status> Run(Turn turn, kj::Function<absl::Status()> work);

  // No more work is taken, and what waits for its last turn is not done any more: UNAVAILABLE. Any thread; never waits.
  void BeginEnd();
  // The same; then waits for the work that runs and for what has the next turn, and ends the thread. The loops that
  // wait for the results must still run.
  void Close();

 private:
  struct Entry {
    uint64_t id;
    kj::Function<absl::Status()> work;
    std::shared_ptr<absl::Status> result;  // before `done`
    kj::Own<kj::CrossThreadPromiseFulfiller<void>> done;
  };

  // Waits for work; false when there is none left and the queue is closed.
  bool Take(std::list<Entry>& taken);
  void Loop();
  void Drop(uint64_t id);

  const Limits limits_;

  absl::Mutex mutex_;
  std::list<Entry> next_ ABSL_GUARDED_BY(mutex_);
  std::list<Entry> last_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONTROL_WORK_QUEUE_H_
