// Reading and writing files without blocking the thread that asks.
#ifndef FERRITE_DEVICES_BLOCK_ASYNC_IO_H_
#define FERRITE_DEVICES_BLOCK_ASYNC_IO_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "devices/block/io_request.h"

namespace ferrite {

// Requests in, outcomes out, in any order: requests that are in flight together are not ordered.
//
// Threads: Submit, Kick and PopDone are called on the loop's thread only. The destructor runs off it, while nothing is
// in flight and no lock is held that the listener takes.
class AsyncIo {
 public:
  enum class Engine {
    kIoUring,  // io_uring(7)
    kThreads,  // a few threads that make the blocking calls
  };

  // io_uring where the kernel has and permits it, else threads, with a log line that says why. At most `depth` requests
  // (1 to 4096) are with the kernel at a time; the others wait here. `loop` outlives it.
  static absl::StatusOr<std::unique_ptr<AsyncIo>> Create(EventLoop& loop, uint32_t depth);
  // The engine that is asked for, or an error.
  static absl::StatusOr<std::unique_ptr<AsyncIo>> Create(EventLoop& loop, uint32_t depth, Engine engine);

  virtual ~AsyncIo() = default;

  // `listener` is called on the loop's thread, with nothing of AsyncIo on the stack, whenever PopDone() may have
  // something to return or to do: it calls PopDone() until that returns null. Set once, before the first Submit().
  virtual void SetListener(std::function<void()> listener) = 0;
  // Takes `request` (not owned). Nothing happens before Kick().
  virtual void Submit(IoRequest& request) = 0;
  // Starts all that was submitted, in one system call where possible. Does not wait.
  virtual void Kick() = 0;
  // A request that is over, or null. Requests that were quick may be found here right after Kick().
  virtual IoRequest* PopDone() = 0;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_ASYNC_IO_H_
