// AsyncIo on io_uring(7).
#ifndef FERRITE_DEVICES_BLOCK_URING_IO_H_
#define FERRITE_DEVICES_BLOCK_URING_IO_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "base/event_loop.h"
#include "base/fd.h"
#include "devices/block/async_io.h"
#include "devices/block/io_request.h"

namespace ferrite {

class UringIo final : public AsyncIo {
 public:
  // Fails with what the kernel said where it has no io_uring, forbids it (sysctl kernel.io_uring_disabled, seccomp), or
  // lacks one of the operations (Linux before 5.6).
  static absl::StatusOr<std::unique_ptr<AsyncIo>> Create(EventLoop& loop, uint32_t depth);
  ~UringIo() override;

  void SetListener(std::function<void()> listener) override { listener_ = std::move(listener); }
  void Submit(IoRequest& request) override;
  void Kick() override;
  IoRequest* PopDone() override;

 private:
  class Ring;

  UringIo(EventLoop& loop, uint32_t depth, std::unique_ptr<Ring> ring, EventFd completed);
  absl::Status Watch();

  EventLoop& loop_;
  const uint32_t depth_;
  const std::unique_ptr<Ring> ring_;
  const EventFd completed_;
  std::function<void()> listener_;
  IoRequestQueue waiting_;  // with a call to make
  uint32_t in_ring_ = 0;
  // Destroyed before what the callbacks use.
  std::unique_ptr<EventLoop::Watch> retry_;
  std::unique_ptr<EventLoop::Watch> watch_;
};

}  // namespace ferrite

#endif  // FERRITE_DEVICES_BLOCK_URING_IO_H_
