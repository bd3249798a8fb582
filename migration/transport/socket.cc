#include "migration/transport/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/status.h"

namespace ferrite::migration {
namespace {

// One place that a name stands for.
struct Endpoint {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

absl::StatusOr<std::vector<Endpoint>> Resolve(const Address& address, bool passive) {
  std::vector<Endpoint> endpoints;
  if (address.kind == Address::Kind::kUnix) {
    Endpoint endpoint;
    sockaddr_un un{};
    un.sun_family = AF_UNIX;
    // ParseAddress() has checked the length.
    std::memcpy(un.sun_path, address.path.c_str(), address.path.size() + 1);
    std::memcpy(&endpoint.storage, &un, sizeof(un));
    endpoint.length = sizeof(un);
    endpoints.push_back(endpoint);
    return endpoints;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (passive ? AI_PASSIVE : 0);
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found); error != 0) {
    return absl::NotFoundError(absl::StrCat(address.ToString(), ": ", gai_strerror(error)));
  }
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    Endpoint endpoint;
    std::memcpy(&endpoint.storage, entry->ai_addr, entry->ai_addrlen);
    endpoint.length = entry->ai_addrlen;
    endpoints.push_back(endpoint);
  }
  freeaddrinfo(found);
  return endpoints;
}

// Waits until `fd` has one of `events`. CANCELLED or DEADLINE_EXCEEDED otherwise.
absl::Status WaitFor(int fd, short events, const EventFd& cancel, MonotonicTime deadline, absl::string_view what) {
  while (true) {
    pollfd polled[2] = {{.fd = fd, .events = events, .revents = 0},
                        {.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
    int timeout = -1;
    if (deadline != MonotonicTime::InfiniteFuture()) {
      const absl::Duration left = deadline - MonotonicTime::Now();
      if (left <= absl::ZeroDuration()) {
        return absl::DeadlineExceededError(absl::StrCat(what, ": no answer in time"));
      }
      timeout = static_cast<int>(absl::ToInt64Milliseconds(left)) + 1;
    }
    const int n = poll(polled, 2, timeout);
    if (n < 0 && errno != EINTR) {
      return ErrnoStatus(absl::StrCat(what, ": poll"));
    }
    if (n > 0 && polled[1].revents != 0) {
      return absl::CancelledError(absl::StrCat(what, ": cancelled"));
    }
    if (n > 0 && polled[0].revents != 0) {
      return absl::OkStatus();
    }
  }
}

// Blocking from here on; small frames leave at once.
absl::Status Prepare(const Fd& fd) {
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return ErrnoStatus("make a socket blocking");
  }
  const int on = 1;
  // Fails on a unix socket, which has no delay to turn off.
  (void)setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return absl::OkStatus();
}

absl::StatusOr<Fd> ConnectOne(const Endpoint& endpoint, const std::string& name, MonotonicTime deadline,
                              const EventFd& cancel) {
  Fd fd(socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) {
    return ErrnoStatus("socket");
  }
  const std::string what = absl::StrCat("connect to ", name);
  if (connect(fd.get(), endpoint.get(), endpoint.length) < 0) {
    if (errno != EINPROGRESS) {
      return ErrnoStatus(what);
    }
    FERRITE_RETURN_IF_ERROR(WaitFor(fd.get(), POLLOUT, cancel, deadline, what));
    int error = 0;
    socklen_t length = sizeof(error);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) < 0 || error != 0) {
      return ErrnoStatus(error, what);
    }
  }
  FERRITE_RETURN_IF_ERROR(Prepare(fd));
  return fd;
}

// Whether a socket file is there that nobody listens on.
bool IsStaleSocket(const Endpoint& endpoint, const std::string& path) {
  struct stat file {};
  if (stat(path.c_str(), &file) < 0 || !S_ISSOCK(file.st_mode)) {
    return false;
  }
  const Fd probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return probe.valid() && connect(probe.get(), endpoint.get(), endpoint.length) < 0 && errno == ECONNREFUSED;
}

absl::StatusOr<Fd> ListenOn(const Address& address, const Endpoint& endpoint) {
  Fd fd(socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) {
    return ErrnoStatus("socket");
  }
  if (address.kind == Address::Kind::kUnix) {
    if (IsStaleSocket(endpoint, address.path)) {
      unlink(address.path.c_str());
    }
  } else {
    const int on = 1;
    (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  }
  if (bind(fd.get(), endpoint.get(), endpoint.length) < 0) {
    return ErrnoStatus(absl::StrCat("listen on ", address.ToString()));
  }
  // Whoever connects may take part in a move: a unix socket is for its owner only, before anyone can connect.
  if (address.kind == Address::Kind::kUnix && chmod(address.path.c_str(), 0600) < 0) {
    return ErrnoStatus(absl::StrCat("restrict ", address.path));
  }
  if (listen(fd.get(), SOMAXCONN) < 0) {
    return ErrnoStatus(absl::StrCat("listen on ", address.ToString()));
  }
  return fd;
}

std::string NameOf(const Endpoint& endpoint, const Address& fallback) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (endpoint.storage.ss_family == AF_UNIX || getnameinfo(endpoint.get(), endpoint.length, host, sizeof(host), port,
                                                           sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return fallback.ToString();
  }
  return Address{.kind = Address::Kind::kTcp, .host = host, .port = port, .path = ""}.ToString();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> Connect(const Address& address, absl::Duration limit, const EventFd& cancel) {
  const MonotonicTime deadline = MonotonicTime::Now() + limit;
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, Resolve(address, /*passive=*/false));
  absl::Status last = absl::NotFoundError(absl::StrCat(address.ToString(), ": no address"));
  for (const Endpoint& endpoint : endpoints) {
    absl::StatusOr<Fd> fd = ConnectOne(endpoint, address.ToString(), deadline, cancel);
    if (fd.ok()) {
      return MakeSocketStream(fd->Release(), address.ToString());
    }
    last = fd.status();
    if (absl::IsCancelled(last) || absl::IsDeadlineExceeded(last)) {
      break;
    }
  }
  return last;
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(const Address& address) {
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, Resolve(address, /*passive=*/true));
  FERRITE_ASSIGN_OR_RETURN(Fd fd, ListenOn(address, endpoints.front()));
  Address actual = address;
  if (address.kind == Address::Kind::kTcp) {
    Endpoint bound;
    bound.length = sizeof(bound.storage);
    if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound.storage), &bound.length) == 0) {
      FERRITE_ASSIGN_OR_RETURN(const Address named, ParseAddress(NameOf(bound, address)));
      actual.port = named.port;
    }
  }
  return std::unique_ptr<Listener>(new Listener(std::move(fd), std::move(actual)));
}

Listener::~Listener() {
  if (address_.kind == Address::Kind::kUnix) {
    unlink(address_.path.c_str());
  }
}

absl::StatusOr<std::unique_ptr<Stream>> Listener::AcceptNow() {
  Endpoint peer;
  peer.length = sizeof(peer.storage);
  Fd fd(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&peer.storage), &peer.length, SOCK_CLOEXEC));
  if (!fd.valid()) {
    // The peer may be gone again already; that is no reason to stop listening.
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
      return nullptr;
    }
    return ErrnoStatus(absl::StrCat("accept on ", address_.ToString()));
  }
  FERRITE_RETURN_IF_ERROR(Prepare(fd));
  return MakeSocketStream(fd.Release(), NameOf(peer, address_));
}

absl::StatusOr<std::unique_ptr<Stream>> Listener::Accept(const EventFd& cancel) {
  while (true) {
    FERRITE_RETURN_IF_ERROR(WaitFor(fd_.get(), POLLIN, cancel, MonotonicTime::InfiniteFuture(),
                                    absl::StrCat("accept on ", address_.ToString())));
    FERRITE_ASSIGN_OR_RETURN(std::unique_ptr<Stream> stream, AcceptNow());
    if (stream != nullptr) {
      return stream;
    }
  }
}

}  // namespace ferrite::migration
