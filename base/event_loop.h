// One named thread that waits for file descriptors and runs callbacks: Boost.Asio, kept out of the headers.
#ifndef FERRITE_BASE_EVENT_LOOP_H_
#define FERRITE_BASE_EVENT_LOOP_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace ferrite {

// Memory: the loop does not end when an allocation fails. What is posted is then done in part; `expired` comes again
// after its period; `ready`, which may have read its descriptor empty, is called again until there is memory. The
// methods may throw std::bad_alloc at their callers, and nothing has begun then, but for what RunAndWait() ran in part.
//
// Threads: every method may be called from any thread, also from callbacks. Callbacks run one at a time on the loop's
// thread. The destructor stops the loop and joins the thread; it must not run on that thread, and every Watch is
// destroyed before.
class EventLoop {
 public:
  // A registration; destroying it ends it. After the destructor returned, the callback neither runs nor will run. The
  // destructor waits for a callback that is running on the loop's thread, so do not hold a lock that the callback
  // takes; on the loop's thread (in the callback itself, too) it does not wait.
  class Watch {
   public:
    virtual ~Watch() = default;
  };

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(std::string thread_name);
  virtual ~EventLoop() = default;

  // Calls `ready` whenever `fd` is readable (level triggered: `ready` reads it empty or is called again). `fd` stays
  // the caller's and outlives the Watch; it cannot be a regular file.
  virtual absl::StatusOr<std::unique_ptr<Watch>> WatchReadable(int fd, std::function<void()> ready) = 0;

  // Calls `expired` every `period`, first after one period.
  virtual std::unique_ptr<Watch> WatchTimer(absl::Duration period, std::function<void()> expired) = 0;

  // Runs `task` on the loop's thread, after what was posted before.
  virtual void Post(std::function<void()> task) = 0;

  // Runs `task` on the loop's thread and waits until it has returned; on the loop's thread it runs at once.
  virtual void RunAndWait(std::function<void()> task) = 0;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_EVENT_LOOP_H_
