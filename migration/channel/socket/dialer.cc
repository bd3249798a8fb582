#include "migration/channel/socket/dialer.h"

#include <sys/socket.h>

#include <span>

#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<std::unique_ptr<SocketStream>> Dialer::Connect(const Address& address, absl::Duration limit,
                                                              const EventFd& cancel) {
  const MonotonicTime start = clock_.Now();
  const std::string name = address.ToString();
  if (known_.has_value() && name_ == name) {
    absl::StatusOr<std::unique_ptr<SocketStream>> stream =
        ConnectToAny(std::span(&*known_, 1), name, limit / 4, cancel, clock_);
    if (stream.ok() || absl::IsCancelled(stream.status())) {
      return stream;
    }
  }
  known_.reset();
  FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<SocketStream> stream,
                           migration::Connect(address, limit - (clock_.Now() - start), cancel, resolve_, clock_));
  Endpoint reached;
  reached.length = sizeof(reached.storage);
  if (address.kind != Address::Kind::kUnix &&
      getpeername(stream->fd(), reinterpret_cast<sockaddr*>(&reached.storage), &reached.length) == 0) {
    name_ = name;
    known_ = reached;
  }
  return stream;
}

}  // namespace ferrite::migration
