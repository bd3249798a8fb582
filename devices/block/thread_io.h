// AsyncIo on threads that make blocking calls, for hosts without io_uring.
#ifndef FERRITE_DEVICES_BLOCK_THREAD_IO_H_
#define FERRITE_DEVICES_BLOCK_THREAD_IO_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "base/thread.h"
#include "devices/block/async_io.h"
#include "devices/block/io_request.h"

namespace ferrite {

class ThreadIo final : public AsyncIo {
 public:
  // Makes at most four threads, "blkio-0" and so on.
  static absl::StatusOr<std::unique_ptr<AsyncIo>> Create(EventLoop& loop, uint32_t depth);
  ~ThreadIo() override;

  void SetListener(std::function<void()> listener) override { listener_ = std::move(listener); }
  void Submit(IoRequest& request) override { submitted_.Push(request); }
  void Kick() override;
  IoRequest* PopDone() override;

 private:
  explicit ThreadIo(EventFd completed) : completed_(std::move(completed)) {}

  void Work();

  const EventFd completed_;
  std::function<void()> listener_;
  IoRequestQueue submitted_;

  absl::Mutex mutex_;
  IoRequestQueue to_do_ ABSL_GUARDED_BY(mutex_);
  IoRequestQueue done_ ABSL_GUARDED_BY(mutex_);
  uint32_t working_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<Thread> threads_;
  std::unique_ptr<EventLoop::Watch> watch_;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_THREAD_IO_H_
