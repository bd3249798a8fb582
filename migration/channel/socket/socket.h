// Connecting and listening.
#ifndef FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_H_
#define FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_H_

#include <sys/socket.h>

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/socket_file.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/socket_stream.h"

namespace ferrite::migration {

// One place that a name stands for.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// The places that an address stands for.
using Resolver = std::function<absl::StatusOr<std::vector<Endpoint>>(const Address&)>;
// The system's (getaddrinfo(3)), which neither a limit nor a cancel ends.
absl::StatusOr<std::vector<Endpoint>> Resolve(const Address& address);

// Connects within `limit` of `clock`; DEADLINE_EXCEEDED after it, CANCELLED as soon as `cancel` is signalled (it stays
// so). A name may stand for several places: one that does not answer keeps the next ones waiting for a quarter of a
// second at most. `resolve` is waited for, however long it takes; what it finds has two seconds all the same, or
// `limit` if that is less.
absl::StatusOr<std::unique_ptr<SocketStream>> Connect(const Address& address, absl::Duration limit,
                                                      const EventFd& cancel, const Resolver& resolve = Resolve,
                                                      const Clock& clock = RealClock());

// The same, for places that are known. `name` is for messages.
absl::StatusOr<std::unique_ptr<SocketStream>> ConnectToAny(std::span<const Endpoint> endpoints, const std::string& name,
                                                           absl::Duration limit, const EventFd& cancel,
                                                           const Clock& clock = RealClock());

// Listens on an address. Threads: one thread accepts.
class Listener {
 public:
  // An old socket file at a unix path that nobody listens on is replaced. Of the places that a name stands for it is
  // the first one that can be listened on.
  static absl::StatusOr<std::unique_ptr<Listener>> Create(const Address& address);
  // With the port that the kernel chose, if the port was 0.
  const Address& address() const { return address_; }
  // Readable when a connection waits.
  int fd() const { return fd_.get(); }
  // A connection that waits; null when there is none (any more). RESOURCE_EXHAUSTED when there is no descriptor for it:
  // it can be had when another one is closed. UNAVAILABLE when it cannot be had just now for another reason (no memory,
  // an error of the network): it may be later. fd() tells in neither case when.
  absl::StatusOr<std::unique_ptr<SocketStream>> AcceptNow();

 private:
  Listener(Fd fd, SocketFile file, Address address)
      : fd_(std::move(fd)), file_(std::move(file)), address_(std::move(address)) {}

  const Fd fd_;
  const SocketFile file_;  // of a unix path
  const Address address_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_SOCKET_SOCKET_H_
