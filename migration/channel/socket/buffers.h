// What is left of buffers of which some has gone.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_BUFFERS_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_BUFFERS_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace ferrite::migration {

// Takes `bytes` off the front of `buffers` and returns what is left of them.
inline std::span<iovec> Advance(std::span<iovec> buffers, size_t bytes) {
  while (!buffers.empty() && bytes >= buffers.front().iov_len) {
    bytes -= std::exchange(buffers.front().iov_len, 0);
    buffers = buffers.subspan(1);
  }
  if (!buffers.empty()) {
    buffers.front().iov_base = static_cast<uint8_t*>(buffers.front().iov_base) + bytes;
    buffers.front().iov_len -= bytes;
  }
  return buffers;
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_BUFFERS_H_
