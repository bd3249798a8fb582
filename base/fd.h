// Owned file descriptors.
#ifndef FERRITE_BASE_FD_H_
#define FERRITE_BASE_FD_H_

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferrite {

// A file descriptor that is closed with its owner. Move-only; -1 when empty.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~Fd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // Gives the descriptor to the caller, who closes it.
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1);

  // A second descriptor for the same open file, close-on-exec.
  absl::StatusOr<Fd> Duplicate() const;

 private:
  int fd_ = -1;
};

// open(2), always with O_CLOEXEC. The error names the path.
absl::StatusOr<Fd> OpenFile(const std::string& path, int flags, int mode = 0);

// The kernel's link to what `fd` stands for: a path that nobody can rename, for calls that take only paths (proc(5)).
std::string DescriptorPath(int fd);

// For the pipe or terminal that `fd` writes to, a descriptor of an open file of its own, on which no write waits: the
// flags of the one behind `fd` are shared with other processes. Empty for everything else, and for what may not be
// opened anew. Who keeps it keeps the pipe open.
Fd OpenForWritingWithoutWaiting(int fd);

// As write(2), but EAGAIN in place of waiting for a reader, for what processes inherit: files, pipes, terminals,
// sockets.
ssize_t WriteWithoutWaiting(int fd, std::span<const uint8_t> bytes);

// An eventfd(2): a 64-bit counter that wakes whoever waits for it. Non-blocking, close-on-exec. Any thread may call.
class EventFd {
 public:
  static absl::StatusOr<EventFd> Create();

  int fd() const { return fd_.get(); }
  // Adds one to the counter.
  void Signal() const;
  // Reads the counter and sets it to zero; 0 when nothing was signalled.
  uint64_t Drain() const;

 private:
  explicit EventFd(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace ferrite

#endif  // FERRITE_BASE_FD_H_
