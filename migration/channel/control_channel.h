// Control messages of a move, both ways, over whatever carries them.
#ifndef FERRITE_MIGRATION_CHANNEL_CONTROL_CHANNEL_H_
#define FERRITE_MIGRATION_CHANNEL_CONTROL_CHANNEL_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "migration/protocol/messages.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// Threads: one receives while another one sends; the rest from any thread. ControlPeer, which watches over the other
// side, is made of one.
class ControlChannel {
 public:
  virtual ~ControlChannel() = default;

  // Sends a whole message. UNAVAILABLE when the connection is lost, was shut down, or the peer took nothing of it for
  // its patience.
  virtual absl::Status Send(const Message& message) = 0;
  // As much of it as goes without waiting. Nothing can be sent afterwards.
  virtual void SendAtOnce(const Message& message) = 0;
  // Whether the peer has taken so much that something can be sent without waiting.
  virtual bool HasRoom() const = 0;

  struct Received {
    // An error in place of a message that could not be decoded: the connection is in order.
    absl::StatusOr<Message> message;
    size_t bytes = 0;  // that it took on the line
  };
  // The next message, which may take `limit` to begin: DEADLINE_EXCEEDED then. UNAVAILABLE as Send(), also for a peer
  // that stops in the middle of a message; INVALID_ARGUMENT or DATA_LOSS for what is no message of a move;
  // RESOURCE_EXHAUSTED for want of memory here.
  virtual absl::StatusOr<Received> Next(absl::Duration limit) = 0;
  // A message that takes more on the line is INVALID_ARGUMENT.
  virtual void SetMostBytes(uint32_t bytes) = 0;

  // How long the peer may make no progress at all in the middle of a message, either way. 10 s when not set.
  virtual void SetPatience(absl::Duration patience) = 0;
  // The same for what is sent alone, a Send() that is on among it: that ends no later than `patience`, or 100 ms if
  // that is more, from now when the peer takes nothing.
  virtual void SetSendPatience(absl::Duration patience) = 0;
  // Makes all that waits fail at once, and all that comes later.
  virtual void Shutdown() = 0;
  // For messages: "tcp:192.0.2.7:41234".
  virtual const std::string& peer() const = 0;

  // What `nonce` is on this channel, in a proof: the same at both ends and, where it is encrypted, on no other one.
  virtual absl::StatusOr<Nonce> Bind(const Nonce& nonce) const { return nonce; }
  // As whom the two ends know each other, the same at both; empty where they do not.
  virtual std::string parties() const { return ""; }
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_CONTROL_CHANNEL_H_
