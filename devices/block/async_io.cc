#include "devices/block/async_io.h"

#include <utility>

#include "base/log.h"
#include "devices/block/thread_io.h"
#include "devices/block/uring_io.h"

namespace ferrite {

absl::StatusOr<std::unique_ptr<AsyncIo>> AsyncIo::Create(EventLoop& loop, uint32_t depth) {
  auto uring = Create(loop, depth, Engine::kIoUring);
  if (uring.ok()) {
    return uring;
  }
  Log().info("block: {}; disks use threads instead", uring.status().ToString());
  return Create(loop, depth, Engine::kThreads);
}

absl::StatusOr<std::unique_ptr<AsyncIo>> AsyncIo::Create(EventLoop& loop, uint32_t depth, Engine engine) {
  if (engine == Engine::kIoUring) {
    return UringIo::Create(loop, depth);
  }
  return ThreadIo::Create(loop, depth);
}

}  // namespace ferrite
