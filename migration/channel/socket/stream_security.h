// What the connections of a move are wrapped in before they are streams: nothing, or TLS (channel/tls).
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_SECURITY_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_SECURITY_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"

namespace ferrite::migration {

// A connection whose two ends find out who they are. It waits for nothing: who has many of them waits for all at once.
// Threads: one.
class Handshake {
 public:
  virtual ~Handshake() = default;

  // As far as it goes without waiting: the stream when it is done, after which it is of no more use; null when it goes
  // on once fd() has events(). An error says in one line why the other end, which is "it", is not let in, or does not
  // let this one in.
  virtual absl::StatusOr<std::unique_ptr<Stream>> Step() = 0;
  virtual int fd() const = 0;
  virtual short events() const = 0;  // NOLINT(google-runtime-int): poll(2)'s
  // For messages.
  virtual const std::string& peer() const = 0;
};

// Of one side of a move. Threads: any.
class StreamSecurity {
 public:
  virtual ~StreamSecurity() = default;

  // RESOURCE_EXHAUSTED for want of memory.
  virtual absl::StatusOr<std::unique_ptr<Handshake>> Start(std::unique_ptr<SocketStream> socket) = 0;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_STREAM_SECURITY_H_
