#include "migration/channel/socket/socket_stream.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/socket/buffers.h"

namespace ferrite::migration {
namespace {

// The kernel takes at most this many pieces at once (UIO_MAXIOV).
constexpr size_t kMaxPieces = 1024;

constexpr absl::Duration kDefaultPatience = absl::Seconds(10);
// A write that waits looks at its patience so often.
constexpr absl::Duration kWriteStep = absl::Milliseconds(100);
// Who is given less for a last word has that long to acknowledge it, also when the connection was closed here.
constexpr absl::Duration kLeastTcpPatience = absl::Seconds(3);

// Has TCP give up a peer of which nothing comes back, where nobody writes or reads in the middle of a frame: of what
// was sent (TCP_USER_TIMEOUT), and where nothing is sent (keep-alive probes; see tcp(7)). Other sockets take none of
// it.
void LimitTcpSilence(int fd, absl::Duration patience) {
  patience = std::max(patience, kLeastTcpPatience);
  const auto timeout = static_cast<unsigned>(std::min<int64_t>(absl::ToInt64Milliseconds(patience), INT_MAX));
  const int idle = static_cast<int>(std::clamp<int64_t>(absl::ToInt64Seconds(patience / 2), 1, 3600));
  const int interval = static_cast<int>(std::clamp<int64_t>(absl::ToInt64Seconds(patience / 8), 1, 3600));
  const int on = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
  (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
  (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

// Of a call that failed: the connection's affair, or that of our own memory.
absl::Status Failed(int error, const std::string& what) {
  const absl::Status status = ErrnoStatus(error, what);
  return error == EFAULT || error == ENOMEM
             ? absl::ResourceExhaustedError(
                   absl::StrCat(status.message(), " (memory of this side cannot be had; the connection is in order)"))
             : absl::UnavailableError(status.message());
}

}  // namespace

SocketStream::SocketStream(Fd fd, std::string peer) : fd_(std::move(fd)), peer_(std::move(peer)) {
  // Neither fails on a socket, but the second one where there is no delay to turn off.
  (void)fcntl(fd_.get(), F_SETFL, fcntl(fd_.get(), F_GETFL) & ~O_NONBLOCK);
  const int on = 1;
  (void)setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  SetPatience(kDefaultPatience);
}

absl::Status SocketStream::WriteAll(std::span<iovec> buffers) {
  buffers = Advance(buffers, 0);
  absl::Duration waited;
  while (!buffers.empty()) {
    msghdr message{};
    message.msg_iov = buffers.data();
    message.msg_iovlen = std::min(buffers.size(), kMaxPieces);
    const ssize_t n = sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      if (errno != EAGAIN) {
        return Failed(errno, absl::StrCat("send to ", peer_));
      }
      // Each lasts for a step, in which nothing went.
      const absl::Duration patience = absl::Nanoseconds(write_patience_.load());
      waited += std::min(patience, kWriteStep);
      if (waited >= patience) {
        return absl::UnavailableError(absl::StrCat(peer_, " stopped reading"));
      }
      continue;
    }
    waited = absl::ZeroDuration();
    buffers = Advance(buffers, static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

size_t SocketStream::WriteSome(std::span<const uint8_t> bytes) {
  const ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

absl::StatusOr<size_t> SocketStream::ReadSome(std::span<uint8_t> out) {
  const ssize_t n = shut_down_ ? 0 : recv(fd_.get(), out.data(), out.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
    return 0;
  }
  if (n < 0) {
    return Failed(errno, absl::StrCat("receive from ", peer_));
  }
  if (n == 0) {
    return absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"));
  }
  return static_cast<size_t>(n);
}

void SocketStream::Shutdown() {
  shut_down_ = true;
  shutdown(fd_.get(), SHUT_RDWR);
}

void SocketStream::SetPatience(absl::Duration patience) {
  const timeval limit = absl::ToTimeval(patience);
  (void)setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  LimitTcpSilence(fd_.get(), patience);
  SetWritePatience(patience);
}

void SocketStream::SetWritePatience(absl::Duration patience) {
  write_patience_ = absl::ToInt64Nanoseconds(patience);
  const timeval step = absl::ToTimeval(std::min(patience, kWriteStep));
  (void)setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &step, sizeof(step));
}

absl::Status SocketStream::Read(std::span<uint8_t> out, bool in_frame) {
  size_t got = 0;
  while (got < out.size()) {
    // The kernel goes on giving out what came before a shutdown, which may be much.
    const ssize_t n = shut_down_ ? 0 : recv(fd_.get(), out.data() + got, out.size() - got, 0);
    if (n < 0) {
      // EAGAIN is the end of the patience: it counts only in the middle of a frame.
      if (errno == EINTR || (errno == EAGAIN && got == 0 && !in_frame)) {
        continue;
      }
      if (errno == EAGAIN) {
        return absl::UnavailableError(absl::StrCat(peer_, " stopped sending in the middle of a frame"));
      }
      return Failed(errno, absl::StrCat("receive from ", peer_));
    }
    if (n == 0) {
      return got == 0 ? absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"))
                      : absl::UnavailableError(absl::StrCat(peer_, " closed the connection in the middle of a frame"));
    }
    got += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

bool SocketStream::AwaitReadable(const Clock& clock, absl::Duration limit) {
  pollfd polled{.fd = fd_.get(), .events = POLLIN, .revents = 0};
  return clock.PollFor({&polled, 1}, limit) > 0;
}

absl::Duration SocketStream::QueueDelay() const {
  // That of linux/tcp.h, which has more than the one of the C library.
  tcp_info info = {};
  socklen_t size = sizeof(info);
  if (getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
      size < offsetof(tcp_info, tcpi_min_rtt) + sizeof(info.tcpi_min_rtt) || info.tcpi_rtt <= info.tcpi_min_rtt) {
    return absl::ZeroDuration();
  }
  return absl::Microseconds(info.tcpi_rtt - info.tcpi_min_rtt);
}

bool SocketStream::IsWritable() const {
  pollfd polled{.fd = fd_.get(), .events = POLLOUT, .revents = 0};
  return poll(&polled, 1, 0) > 0;
}

absl::StatusOr<std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>>> MakeStreamPair() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
    return ErrnoStatus("socketpair");
  }
  return std::make_pair(std::make_unique<SocketStream>(Fd(ends[0]), "pair:b"),
                        std::make_unique<SocketStream>(Fd(ends[1]), "pair:a"));
}

}  // namespace ferrite::migration
