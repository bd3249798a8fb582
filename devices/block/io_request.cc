#include "devices/block/io_request.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

namespace ferrite {
namespace {

// Interruptions and refusals in a row, without a byte moved, after which the error is passed on.
constexpr int kMaxTries = 100;

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

// What zeroes are written from. Nobody writes to it: it is the kernel's one page of zeroes many times over.
alignas(4096) std::array<uint8_t, size_t{1} << 20> zero_block;

// EINVAL is what a block device says to a range that its own blocks do not divide.
bool MeansNotSupported(int error) { return error == EOPNOTSUPP || error == ENOSYS || error == EINVAL; }

}  // namespace

int64_t MakeCall(const IoCall& call) {
  const auto offset = static_cast<off_t>(call.offset);
  int64_t result = -1;
  switch (call.kind) {
    case IoCall::Kind::kRead:
      result = preadv(call.fd, call.buffers.data(), static_cast<int>(call.buffers.size()), offset);
      break;
    case IoCall::Kind::kWrite:
      result = pwritev(call.fd, call.buffers.data(), static_cast<int>(call.buffers.size()), offset);
      break;
    case IoCall::Kind::kSync:
      result = fdatasync(call.fd);
      break;
    case IoCall::Kind::kAllocate:
      result = fallocate(call.fd, call.mode, offset, static_cast<off_t>(call.bytes));
      break;
  }
  return result < 0 ? -errno : result;
}

void IoRequest::CarryOut() {
  Begin();
  while (!Finish(MakeCall(NextCall()))) {
  }
}

void IoRequest::Begin() {
  error = 0;
  mode_ = 0;
  tries_ = 0;
  buffers_left_ = buffers;
  next_offset_ = offset;
  zeroes_left_ = 0;
  switch (kind) {
    case Kind::kRead:
      call_ = IoCall::Kind::kRead;
      break;
    case Kind::kWrite:
      call_ = IoCall::Kind::kWrite;
      break;
    case Kind::kFlush:
      call_ = IoCall::Kind::kSync;
      break;
    case Kind::kDiscard:
      call_ = IoCall::Kind::kAllocate;
      mode_ = kPunchHole;
      break;
    case Kind::kWriteZeroes:
      call_ = IoCall::Kind::kAllocate;
      mode_ = unmap ? kPunchHole : kZeroRange;
      break;
  }
}

IoCall IoRequest::NextCall() const {
  IoCall call{.kind = call_, .fd = fd, .offset = next_offset_};
  if (call_ == IoCall::Kind::kAllocate) {
    call.bytes = bytes;
    call.mode = mode_;
  } else if (call_ != IoCall::Kind::kSync) {
    call.buffers = buffers_left_.first(std::min<size_t>(buffers_left_.size(), IOV_MAX));
  }
  return call;
}

bool IoRequest::Finish(int64_t result) {
  const int refusal = result < 0 ? static_cast<int>(-result) : 0;
  if (refusal == EINTR || refusal == EAGAIN) {
    return ++tries_ == kMaxTries && Over(refusal);
  }
  tries_ = 0;
  if (refusal != 0) {
    return call_ == IoCall::Kind::kAllocate ? FinishRefusedAllocate(refusal) : Over(refusal);
  }
  if (call_ == IoCall::Kind::kSync || call_ == IoCall::Kind::kAllocate) {
    return Over(0);
  }
  return FinishTransfer(static_cast<uint64_t>(result));
}

bool IoRequest::FinishTransfer(uint64_t moved) {
  next_offset_ += moved;
  uint64_t rest = moved;
  while (!buffers_left_.empty() && rest >= buffers_left_.front().iov_len) {
    rest -= buffers_left_.front().iov_len;
    buffers_left_ = buffers_left_.subspan(1);
  }
  if (!buffers_left_.empty()) {
    if (moved == 0) {
      // The file ends here: it was cut off under us.
      return Over(EIO);
    }
    iovec& buffer = buffers_left_.front();
    buffer.iov_base = static_cast<uint8_t*>(buffer.iov_base) + rest;
    buffer.iov_len -= rest;
    return false;
  }
  if (zeroes_left_ > 0) {
    PrepareZeroes();
    return false;
  }
  return Over(0);
}

bool IoRequest::FinishRefusedAllocate(int refusal) {
  if (!MeansNotSupported(refusal)) {
    return Over(refusal);
  }
  if (kind == Kind::kDiscard) {
    return Over(0);
  }
  if (mode_ == kPunchHole) {
    mode_ = kZeroRange;
    return false;
  }
  call_ = IoCall::Kind::kWrite;
  zeroes_left_ = bytes;
  PrepareZeroes();
  return false;
}

void IoRequest::PrepareZeroes() {
  zeroes_ = {zero_block.data(), std::min<uint64_t>(zeroes_left_, zero_block.size())};
  zeroes_left_ -= zeroes_.iov_len;
  buffers_left_ = {&zeroes_, 1};
}

void IoRequestQueue::Push(IoRequest& request) {
  request.next_ = nullptr;
  (first_ == nullptr ? first_ : last_->next_) = &request;
  last_ = &request;
}

IoRequest* IoRequestQueue::Pop() {
  IoRequest* const request = first_;
  if (request != nullptr) {
    first_ = std::exchange(request->next_, nullptr);
  }
  return request;
}

void IoRequestQueue::Append(IoRequestQueue& other) {
  if (other.empty()) {
    return;
  }
  (first_ == nullptr ? first_ : last_->next_) = std::exchange(other.first_, nullptr);
  last_ = other.last_;
}

}  // namespace ferrite
