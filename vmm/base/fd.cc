#include "vmm/base/fd.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

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
