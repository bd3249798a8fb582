#include "bench/raw_end.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "base/status.h"

namespace ferrite {
namespace {

constexpr size_t kRecord = 16 << 10;

}  // namespace

void RawEnd::Free::operator()(SSL* ssl) const { SSL_free(ssl); }

absl::StatusOr<RawEnd> RawEnd::ShakeHands(int fd, SSL* ssl) {
  RawEnd end(fd);
  end.ssl_.reset(ssl);
  if (SSL_set_fd(ssl, fd) != 1 || SSL_do_handshake(ssl) != 1) {
    return absl::InternalError("the raw stream's TLS handshake failed");
  }
  return end;
}

absl::Status RawEnd::Write(std::span<const uint8_t> head, std::span<const uint8_t> body) {
  if (ssl_ != nullptr) {
    for (const std::span<const uint8_t> piece : {head, body}) {
      for (size_t at = 0; at < piece.size(); at += kRecord) {
        const int bytes = static_cast<int>(std::min(kRecord, piece.size() - at));
        if (SSL_write(ssl_.get(), &piece[at], bytes) != bytes) {
          return absl::UnavailableError("SSL_write");
        }
      }
    }
    return absl::OkStatus();
  }
  iovec pieces[] = {{.iov_base = const_cast<uint8_t*>(head.data()), .iov_len = head.size()},
                    {.iov_base = const_cast<uint8_t*>(body.data()), .iov_len = body.size()}};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = body.empty() ? 1 : 2;
  while (message.msg_iovlen > 0) {
    ssize_t n = sendmsg(fd_, &message, MSG_NOSIGNAL);
    if (n < 0) {
      return ErrnoStatus("sendmsg");
    }
    while (message.msg_iovlen > 0 && static_cast<size_t>(n) >= message.msg_iov->iov_len) {
      n -= static_cast<ssize_t>(message.msg_iov->iov_len);
      ++message.msg_iov;
      --message.msg_iovlen;
    }
    if (message.msg_iovlen > 0) {
      message.msg_iov->iov_base = static_cast<uint8_t*>(message.msg_iov->iov_base) + n;
      message.msg_iov->iov_len -= static_cast<size_t>(n);
    }
  }
  return absl::OkStatus();
}

absl::Status RawEnd::Read(std::span<uint8_t> into) {
  while (!into.empty()) {
    const ssize_t n = ssl_ != nullptr
                          ? SSL_read(ssl_.get(), into.data(), static_cast<int>(std::min<size_t>(into.size(), 1 << 30)))
                          : recv(fd_, into.data(), into.size(), 0);
    if (n <= 0) {
      return n == 0 || ssl_ != nullptr ? absl::UnavailableError("the other process has ended") : ErrnoStatus("recv");
    }
    into = into.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace ferrite
