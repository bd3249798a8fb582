// Byte streams: what a move's channels are made of.
#ifndef FERRITE_MIGRATION_CHANNEL_STREAM_H_
#define FERRITE_MIGRATION_CHANNEL_STREAM_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"

namespace ferrite::migration {

// What may wait in the kernel at either end of a page channel after the switchover (Stream::LimitBuffers()): a page
// that is asked for when it is on its way already waits for what is before it.
inline constexpr int kPostcopyBufferBytes = 256 << 10;

// A connected, reliable, ordered stream. Calls block.
//
// Threads: one thread reads while another one writes; Shutdown() comes from any thread and makes both fail at once.
// There are no time limits in here: whoever watches over the move (PING, a deadline, a cancel) shuts the stream down.
//
// Errors: UNAVAILABLE, with the peer's address, when the connection broke or was shut down; OUT_OF_RANGE when the peer
// closed it between two reads (at the first byte of a ReadAll); RESOURCE_EXHAUSTED when the memory that the bytes come
// from or go to cannot be had: that is no property of the connection, which is of no more use all the same.
class Stream {
 public:
  virtual ~Stream() = default;

  // Reads all of `out`. The first byte may take any time.
  virtual absl::Status ReadAll(std::span<uint8_t> out) = 0;
  // The same in the middle of a frame: the peer has no more than its patience for the first byte, too.
  virtual absl::Status ReadRest(std::span<uint8_t> out) { return ReadAll(out); }
  // Writes all of `buffers` (gather); the elements are used up.
  virtual absl::Status WriteAll(std::span<iovec> buffers) = 0;
  absl::Status WriteAll(std::span<const uint8_t> bytes);
  // As much of `bytes` as goes without waiting.
  virtual void WriteSome(std::span<const uint8_t> bytes) = 0;

  // Lets `time` pass; returns at once when the stream is shut down.
  virtual void Rest(const Clock& clock, absl::Duration time) = 0;

  // Also of what came before it nothing is read any more.
  virtual void Shutdown() = 0;
  virtual bool shut_down() const { return false; }
  // How long the peer may make no progress at all in the middle of a read or a write. 10 s when not set.
  virtual void SetPatience(absl::Duration patience) = 0;
  // The same for writes alone, the one that is on among them: that ends no later than `patience`, or 100 ms if that is
  // more, from now when the peer reads nothing.
  virtual void SetWritePatience(absl::Duration patience) = 0;
  // Bytes that may wait in the kernel, each way, so that what is sent last does not wait behind megabytes.
  virtual void LimitBuffers(int bytes) = 0;
  // To be polled together with others; reading goes through the methods.
  virtual int fd() const = 0;
  // For messages: "tcp:192.0.2.7:41234".
  virtual const std::string& peer() const = 0;
};

// A stream over a connected socket.
std::unique_ptr<Stream> MakeSocketStream(int owned_fd, std::string peer);
// Two ends of one stream in this process.
absl::StatusOr<std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>>> MakeStreamPair();

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_STREAM_H_
