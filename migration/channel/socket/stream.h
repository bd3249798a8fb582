// Byte streams: what the channels of a move are made of where they are sockets, or encrypted ones.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "migration/channel/wait_set.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// A connected, reliable, ordered stream. Calls block.
//
// Threads: one thread reads while another one writes; Shutdown() comes from any thread and makes both fail at once.
// Beside SetPatience() there are no time limits in here: whoever watches over the move (PING, a deadline, a cancel)
// shuts the stream down.
//
// Errors: UNAVAILABLE, with the peer's address, when the connection broke or was shut down; OUT_OF_RANGE when the peer
// closed it between two reads (at the first byte of a ReadAll); RESOURCE_EXHAUSTED when the memory that the bytes come
// from or go to cannot be had: that is no property of the connection, which is of no more use all the same, but for who
// has other bytes to write in their place.
class Stream {
 public:
  virtual ~Stream() = default;

  // Reads all of `out`. The first byte may take any time.
  virtual absl::Status ReadAll(std::span<uint8_t> out) = 0;
  // The same in the middle of a frame: the peer has no more than its patience for the first byte, too.
  virtual absl::Status ReadRest(std::span<uint8_t> out) { return ReadAll(out); }
  // Writes all of `buffers` (gather); the elements are used up. After RESOURCE_EXHAUSTED they are what did not go.
  virtual absl::Status WriteAll(std::span<iovec> buffers) = 0;
  absl::Status WriteAll(std::span<const uint8_t> bytes);
  // As much of `bytes` as goes without waiting: how many of them.
  virtual size_t WriteSome(std::span<const uint8_t> bytes) = 0;
  // As many bytes of `out` as are there without waiting; 0 when there are none yet. OUT_OF_RANGE at the end.
  virtual absl::StatusOr<size_t> ReadSome(std::span<uint8_t> out) = 0;

  // Also of what came before it nothing is read any more.
  virtual void Shutdown() = 0;
  virtual bool shut_down() const { return false; }
  // How long the peer may make no progress at all in the middle of a read or a write. 10 s when not set. Where a peer
  // can vanish without a word, what waits for the beginning of a read ends about as late, too, but not sooner than 3 s.
  virtual void SetPatience(absl::Duration patience) = 0;
  // The same for writes alone, the one that is on among them: that ends no later than `patience`, or 100 ms if that is
  // more, from now when the peer reads nothing.
  virtual void SetWritePatience(absl::Duration patience) = 0;

  // Whether bytes, or the end, can be read without waiting; waits for that, not longer than `limit`. A signal may end
  // the wait early.
  virtual bool AwaitReadable(const Clock& clock, absl::Duration limit) = 0;
  // Whether something can be written without waiting.
  virtual bool IsWritable() const = 0;
  // How long what is written now waits on the line for what others and this one wrote before it, where the kernel can
  // tell, lately.
  virtual absl::Duration QueueDelay() const { return absl::ZeroDuration(); }
  // Has `set` wake who waits when there is something to read.
  virtual absl::Status Join(WaitSet& set, uint32_t tag) = 0;

  // For messages: "tcp:192.0.2.7:41234".
  virtual const std::string& peer() const = 0;
  // For those who connect and accept: readable when ReadSome() may have something, after it had nothing.
  virtual int fd() const = 0;

  // Where the stream is encrypted: what `nonce` becomes on this connection, the same at both ends and on no other one
  // (so a proof over it is worth nothing elsewhere); else `nonce` itself.
  virtual absl::StatusOr<Nonce> Bind(const Nonce& nonce) const { return nonce; }
  // As whom the two ends know each other, the same at both; empty where they do not.
  virtual std::string parties() const { return ""; }
};

inline absl::Status Stream::WriteAll(std::span<const uint8_t> bytes) {
  iovec piece{.iov_base = const_cast<uint8_t*>(bytes.data()), .iov_len = bytes.size()};
  return WriteAll({&piece, 1});
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_H_
