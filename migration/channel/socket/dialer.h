// Connecting to one place again and again.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_DIALER_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_DIALER_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_stream.h"

namespace ferrite::migration {

// Where a name stands for several places, one of which may be silent, only the first connection has to find the one
// that answers: the others go there, too. Threads: one.
class Dialer {
 public:
  // `clock` outlives it.
  explicit Dialer(const Clock& clock, Resolver resolve = Resolve) : clock_(clock), resolve_(std::move(resolve)) {}

  // As migration::Connect(). The place that the last connection to `address` reached is tried first; when it does not
  // answer within a quarter of the time, or is not there any more, the name is looked up again.
  absl::StatusOr<std::unique_ptr<SocketStream>> Connect(const Address& address, absl::Duration limit,
                                                        const EventFd& cancel);

 private:
  const Clock& clock_;
  const Resolver resolve_;
  std::string name_;  // that known_ was reached by
  std::optional<Endpoint> known_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_DIALER_H_
