#include "devices/block/uring_io.h"

#include <liburing.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/out_of_memory.h"
#include "base/status.h"

namespace ferrite {
namespace {

// How long to wait when the kernel has no memory for a request.
constexpr absl::Duration kRetryPeriod = absl::Milliseconds(5);

constexpr int kOperations[] = {IORING_OP_READ,   IORING_OP_READV, IORING_OP_WRITE,
                               IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};

void Prepare(io_uring_sqe* entry, const IoCall& call) {
  const std::span<const iovec> buffers = call.buffers;
  switch (call.kind) {
    case IoCall::Kind::kRead:
      if (buffers.size() == 1 && buffers[0].iov_len <= INT32_MAX) {
        io_uring_prep_read(entry, call.fd, buffers[0].iov_base, static_cast<unsigned>(buffers[0].iov_len), call.offset);
      } else {
        io_uring_prep_readv(entry, call.fd, buffers.data(), static_cast<unsigned>(buffers.size()), call.offset);
      }
      return;
    case IoCall::Kind::kWrite:
      if (buffers.size() == 1 && buffers[0].iov_len <= INT32_MAX) {
        io_uring_prep_write(entry, call.fd, buffers[0].iov_base, static_cast<unsigned>(buffers[0].iov_len),
                            call.offset);
      } else {
        io_uring_prep_writev(entry, call.fd, buffers.data(), static_cast<unsigned>(buffers.size()), call.offset);
      }
      return;
    case IoCall::Kind::kSync:
      io_uring_prep_fsync(entry, call.fd, IORING_FSYNC_DATASYNC);
      return;
    case IoCall::Kind::kAllocate:
      io_uring_prep_fallocate(entry, call.fd, call.mode, static_cast<off_t>(call.offset),
                              static_cast<off_t>(call.bytes));
      return;
  }
}

}  // namespace

class UringIo::Ring {
 public:
  static absl::StatusOr<std::unique_ptr<Ring>> Create(uint32_t entries) {
    io_uring ring = {};
    if (const int error = io_uring_queue_init(entries, &ring, 0); error < 0) {
      return ErrnoStatus(-error, "io_uring");
    }
    return std::unique_ptr<Ring>(new Ring(ring));
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { io_uring_queue_exit(&ring_); }

  absl::Status CheckOperations() {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    bool all = probe != nullptr;
    for (const int operation : kOperations) {
      all = all && io_uring_opcode_supported(probe, operation);
    }
    io_uring_free_probe(probe);
    return all ? absl::OkStatus() : absl::UnimplementedError("io_uring lacks operations (Linux 5.6 has them)");
  }

  io_uring* get() { return &ring_; }

 private:
  explicit Ring(const io_uring& ring) : ring_(ring) {}

  io_uring ring_;
};

absl::StatusOr<std::unique_ptr<AsyncIo>> UringIo::Create(EventLoop& loop, uint32_t depth) {
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Ring> ring, Ring::Create(depth));
  FERRITE_RETURN_IF_ERROR(ring->CheckOperations());
  FERRITE_ASSIGN_OR_RETURN(EventFd completed, EventFd::Create());
  if (const int error = io_uring_register_eventfd(ring->get(), completed.fd()); error < 0) {
    return ErrnoStatus(-error, "io_uring's eventfd");
  }
  auto io = std::unique_ptr<UringIo>(new UringIo(loop, depth, std::move(ring), std::move(completed)));
  FERRITE_RETURN_IF_ERROR(io->Watch());
  return io;
}

UringIo::UringIo(EventLoop& loop, uint32_t depth, std::unique_ptr<Ring> ring, EventFd completed)
    : loop_(loop), depth_(depth), ring_(std::move(ring)), completed_(std::move(completed)) {}

UringIo::~UringIo() { FERRITE_CHECK(in_ring_ == 0 && waiting_.empty()); }

absl::Status UringIo::Watch() {
  FERRITE_ASSIGN_OR_RETURN(watch_, loop_.WatchReadable(completed_.fd(), [this] {
    completed_.Drain();
    listener_();
  }));
  return absl::OkStatus();
}

void UringIo::Submit(IoRequest& request) {
  request.Begin();
  waiting_.Push(request);
}

void UringIo::Kick() {
  io_uring* ring = ring_->get();
  // The completion ring is twice as long as `depth_`, so it cannot overflow.
  while (!waiting_.empty() && in_ring_ < depth_) {
    io_uring_sqe* entry = io_uring_get_sqe(ring);
    if (entry == nullptr) {
      break;
    }
    IoRequest* request = waiting_.Pop();
    Prepare(entry, request->NextCall());
    io_uring_sqe_set_data(entry, request);
    ++in_ring_;
  }
  while (io_uring_sq_ready(ring) > 0) {
    const int taken = io_uring_submit(ring);
    if (taken == -EINTR) {
      continue;
    }
    if (taken <= 0) {
      // No memory for it now: what stays in the ring goes with the next try.
      if (retry_ == nullptr) {
        IfThereIsMemory([this] { retry_ = loop_.WatchTimer(kRetryPeriod, [this] { listener_(); }); });
      }
      if (retry_ == nullptr) {
        completed_.Signal();  // none for a timer either
      }
      return;
    }
  }
  retry_.reset();
}

IoRequest* UringIo::PopDone() {
  io_uring* ring = ring_->get();
  io_uring_cqe* completion = nullptr;
  while (io_uring_peek_cqe(ring, &completion) == 0) {
    auto* request = static_cast<IoRequest*>(io_uring_cqe_get_data(completion));
    const int result = completion->res;
    io_uring_cqe_seen(ring, completion);
    --in_ring_;
    if (request->Finish(result)) {
      return request;
    }
    waiting_.Push(*request);
  }
  if (!waiting_.empty() || io_uring_sq_ready(ring) > 0) {
    Kick();
  }
  return nullptr;
}

}  // namespace ferrite
