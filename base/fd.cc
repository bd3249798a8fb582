#include "base/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {

void Fd::Reset(int fd) {
  if (fd_ >= 0) {
    // Linux frees the descriptor even when close() fails; there is nothing to try again.
    (void)close(fd_);
  }
  fd_ = fd;
}

absl::StatusOr<Fd> Fd::Duplicate() const {
  Fd copy(fcntl(fd_, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) {
    return ErrnoStatus("duplicate a file descriptor");
  }
  return copy;
}

absl::StatusOr<Fd> OpenFile(const std::string& path, int flags, int mode) {
  Fd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) {
    return ErrnoStatus(absl::StrCat("open ", path));
  }
  return fd;
}

std::string DescriptorPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

Fd OpenForWritingWithoutWaiting(int fd) {
  struct stat info = {};
  if (fstat(fd, &info) != 0 || (!S_ISFIFO(info.st_mode) && isatty(fd) == 0)) {
    return Fd();
  }
  return Fd(open(DescriptorPath(fd).c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

ssize_t WriteWithoutWaiting(int fd, std::span<const uint8_t> bytes) {
  const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0 || errno != ENOTSOCK) {
    return sent;
  }
  if (const Fd own = OpenForWritingWithoutWaiting(fd); own.valid()) {
    return write(own.get(), bytes.data(), bytes.size());
  }
  // Of a pipe that takes anything at least this much fits.
  pollfd polled = {.fd = fd, .events = POLLOUT, .revents = 0};
  if (poll(&polled, 1, 0) != 1) {
    errno = EAGAIN;
    return -1;
  }
  return write(fd, bytes.data(), std::min(bytes.size(), size_t{PIPE_BUF}));
}

absl::StatusOr<EventFd> EventFd::Create() {
  Fd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) {
    return ErrnoStatus("eventfd");
  }
  return EventFd(std::move(fd));
}

void EventFd::Signal() const {
  const uint64_t one = 1;
  // EAGAIN means that the counter is at its maximum: whoever waits is awake already.
  while (write(fd_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

uint64_t EventFd::Drain() const {
  uint64_t count = 0;
  ssize_t n = 0;
  do {
    n = read(fd_.get(), &count, sizeof(count));
  } while (n < 0 && errno == EINTR);
  return n == sizeof(count) ? count : 0;
}

}  // namespace ferrite
