#include "migration/channel/socket/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

absl::StatusOr<std::vector<Endpoint>> ResolveAs(const Address& address, bool passive) {
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

// The next place is tried, besides those that have not answered, after this (RFC 8305, section 5), or sooner, so that
// each gets its turn in time.
constexpr absl::Duration kNextAfter = absl::Milliseconds(250);

// What is left to connect, at least, when looking the name up took the time: getaddrinfo(3) heeds no limit.
constexpr absl::Duration kLeastToConnect = absl::Seconds(2);
// An error says so from here on.
constexpr absl::Duration kSlowToResolve = absl::Seconds(1);

std::string NameOf(const Endpoint& endpoint, const std::string& fallback) {
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (endpoint.storage.ss_family == AF_UNIX || getnameinfo(endpoint.get(), endpoint.length, host, sizeof(host), port,
                                                           sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return fallback;
  }
  return Address{.kind = Address::Kind::kTcp, .host = host, .port = port, .path = ""}.ToString();
}

// One try to connect.
class Attempt {
 public:
  explicit Attempt(const Endpoint& endpoint)
      : endpoint_(endpoint), fd_(socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    if (!fd_.valid() || (connect(fd_.get(), endpoint.get(), endpoint.length) < 0 && errno != EINPROGRESS)) {
      error_ = errno;
      fd_.Reset();
    }
  }

  const Endpoint& endpoint() const { return endpoint_; }
  // Invalid when it failed.
  Fd& fd() { return fd_; }
  int error() const { return error_; }
  // The kernel has decided.
  void Finish() {
    socklen_t length = sizeof(error_);
    if (getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error_, &length) < 0) {
      error_ = errno;
    }
    if (error_ != 0) {
      fd_.Reset();
    }
  }

 private:
  Endpoint endpoint_;
  Fd fd_;
  int error_ = 0;
};

// Why none of them led anywhere: with the address of each, where there are several.
absl::Status WhyNone(std::span<Attempt> attempts, const std::string& what, const std::string& name) {
  if (attempts.empty()) {
    return absl::NotFoundError(absl::StrCat(what, ": no address"));
  }
  bool silent = false;
  std::string words;
  absl::Status last;
  for (Attempt& attempt : attempts) {
    const bool waits = attempt.fd().valid();
    silent |= waits;
    last = ConnectStatus(attempt.error(), "");
    absl::StrAppend(&words, words.empty() ? "" : ", ",
                    attempts.size() > 1 ? absl::StrCat(NameOf(attempt.endpoint(), name), " ") : "",
                    waits ? "no answer in time" : strerror(attempt.error()));
  }
  words = absl::StrCat(what, ": ", words);
  if (silent) {
    return absl::DeadlineExceededError(words);
  }
  return attempts.size() == 1 ? ConnectStatus(attempts.front().error(), what) : absl::Status(last.code(), words);
}

absl::StatusOr<Fd> ListenOn(const Address& address, const Endpoint& endpoint) {
  Fd fd(socket(endpoint.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) {
    return ErrnoStatus("socket");
  }
  const int on = 1;
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd.get(), endpoint.get(), endpoint.length) < 0 || listen(fd.get(), SOMAXCONN) < 0) {
    return ErrnoStatus(absl::StrCat("listen on ", address.ToString()));
  }
  return fd;
}

}  // namespace

absl::StatusOr<std::vector<Endpoint>> Resolve(const Address& address) { return ResolveAs(address, /*passive=*/false); }

absl::StatusOr<std::unique_ptr<SocketStream>> Connect(const Address& address, absl::Duration limit,
                                                      const EventFd& cancel, const Resolver& resolve,
                                                      const Clock& clock) {
  const std::string name = address.ToString();
  const MonotonicTime start = clock.Now();
  const absl::StatusOr<std::vector<Endpoint>> endpoints = resolve(address);
  const absl::Duration took = clock.Now() - start;
  // However long that took: what was found is tried.
  const absl::Duration left = std::max(limit - took, std::min(limit, kLeastToConnect));
  absl::StatusOr<std::unique_ptr<SocketStream>> stream =
      endpoints.ok() ? ConnectToAny(*endpoints, name, left, cancel, clock) : endpoints.status();
  if (stream.ok() || absl::IsCancelled(stream.status()) || took < kSlowToResolve) {
    return stream;
  }
  return absl::Status(stream.status().code(),
                      absl::StrCat(stream.status().message(), " (resolving ", name, " took ",
                                   absl::FormatDuration(absl::Trunc(took, absl::Milliseconds(100))), ")"));
}

absl::StatusOr<std::unique_ptr<SocketStream>> ConnectToAny(std::span<const Endpoint> endpoints, const std::string& name,
                                                           absl::Duration limit, const EventFd& cancel,
                                                           const Clock& clock) {
  const std::string what = absl::StrCat("connect to ", name);
  const MonotonicTime deadline = clock.Now() + limit;
  const absl::Duration pause = std::min(kNextAfter, limit / static_cast<int64_t>(endpoints.size() + 1));
  std::vector<Attempt> attempts;
  while (true) {
    bool waits = false;
    for (Attempt& attempt : attempts) {
      waits |= attempt.fd().valid();
    }
    const MonotonicTime now = clock.Now();
    const bool more = attempts.size() < endpoints.size();
    if ((now >= deadline && !attempts.empty()) || (!more && !waits)) {
      return WhyNone(attempts, what, name);
    }
    if (more) {
      attempts.emplace_back(endpoints[attempts.size()]);
    }
    // Until one of them is decided, or the next one is due.
    const MonotonicTime until = attempts.size() < endpoints.size() ? std::min(deadline, now + pause) : deadline;
    bool decided = !attempts.back().fd().valid();
    while (!decided && clock.Now() < until) {
      std::vector<pollfd> polled = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0}};
      for (Attempt& attempt : attempts) {
        // One that failed has no descriptor, and is passed over.
        polled.push_back({.fd = attempt.fd().get(), .events = POLLOUT, .revents = 0});
      }
      (void)clock.PollFor(polled, until - clock.Now());
      if (polled[0].revents != 0) {
        return absl::CancelledError(absl::StrCat(what, ": cancelled"));
      }
      for (size_t i = 0; i < attempts.size(); ++i) {
        if (polled[i + 1].revents == 0) {
          continue;
        }
        attempts[i].Finish();
        if (attempts[i].fd().valid()) {
          return std::make_unique<SocketStream>(std::move(attempts[i].fd()), name);
        }
        decided = true;
      }
    }
  }
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::Create(const Address& address) {
  if (address.kind == Address::Kind::kUnix) {
    // Whoever connects may take part in a move: it is for its owner only.
    auto made = ListenOnPath(address.path);
    FERRITE_RETURN_IF_ERROR(Annotate(made.status(), absl::StrCat("listen on ", address.ToString())));
    return std::unique_ptr<Listener>(new Listener(std::move(made->first), std::move(made->second), address));
  }
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Endpoint> endpoints, ResolveAs(address, /*passive=*/true));
  absl::StatusOr<Fd> bound_fd = absl::NotFoundError(absl::StrCat(address.ToString(), ": no address"));
  for (const Endpoint& endpoint : endpoints) {
    bound_fd = ListenOn(address, endpoint);
    if (bound_fd.ok()) {
      break;
    }
  }
  FERRITE_ASSIGN_OR_RETURN(Fd fd, std::move(bound_fd));
  Address actual = address;
  Endpoint bound;
  bound.length = sizeof(bound.storage);
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound.storage), &bound.length) == 0) {
    FERRITE_ASSIGN_OR_RETURN(const Address named, ParseAddress(NameOf(bound, address.ToString())));
    actual.port = named.port;
  }
  return std::unique_ptr<Listener>(new Listener(std::move(fd), SocketFile(), std::move(actual)));
}

absl::StatusOr<std::unique_ptr<SocketStream>> Listener::AcceptNow() {
  Endpoint peer;
  peer.length = sizeof(peer.storage);
  Fd fd(accept4(fd_.get(), reinterpret_cast<sockaddr*>(&peer.storage), &peer.length, SOCK_CLOEXEC));
  if (!fd.valid()) {
    // The peer may be gone again already; that is no reason to stop listening.
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
      return nullptr;
    }
    // Nor are errors of the network, which accept(2) passes on, nor that there is no room: only those of our own
    // making.
    const bool ours = errno == EBADF || errno == EINVAL || errno == ENOTSOCK || errno == EFAULT;
    const bool descriptors = errno == EMFILE || errno == ENFILE;
    const absl::Status error = ErrnoStatus(absl::StrCat("accept on ", address_.ToString()));
    if (descriptors) {
      return absl::ResourceExhaustedError(error.message());
    }
    return ours ? error : absl::UnavailableError(error.message());
  }
  return std::make_unique<SocketStream>(std::move(fd), NameOf(peer, address_.ToString()));
}

}  // namespace ferrite::migration
