#include "devices/block/io_request.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

namespace ferrite {
namespace {

// Interruptions and refusals in a row, without a byte moved, after which the error is passed on.
constexpr int kMaxTries = 100;

constexpr int kPunchHole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
constexpr int kZeroRange = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;

// What zeroes are written from: one small block many times over, 1 MiB a call.
constexpr size_t kZeroBlocks = 64;
alignas(4096) std::array<uint8_t, 16384> zero_block;

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

void IoRequest::Begin() {
  error = 0;
  mode_ = 0;
  tries_ = 0;
  next_buffer_ = 0;
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
    call.buffers = std::span<const iovec>(buffers).subspan(next_buffer_);
    call.buffers = call.buffers.first(std::min<size_t>(call.buffers.size(), IOV_MAX));
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
  while (next_buffer_ < buffers.size() && rest >= buffers[next_buffer_].iov_len) {
    rest -= buffers[next_buffer_].iov_len;
    ++next_buffer_;
  }
  if (next_buffer_ < buffers.size()) {
    if (moved == 0) {
      // The file ends here: it was cut off under us.
      return Over(EIO);
    }
    iovec& buffer = buffers[next_buffer_];
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
  buffers.clear();
  next_buffer_ = 0;
  while (zeroes_left_ > 0 && buffers.size() < kZeroBlocks) {
    const uint64_t length = std::min<uint64_t>(zeroes_left_, zero_block.size());
    buffers.push_back({zero_block.data(), length});
    zeroes_left_ -= length;
  }
}

}  // namespace ferrite
