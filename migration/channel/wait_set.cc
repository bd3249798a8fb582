#include "migration/channel/wait_set.h"

#include <poll.h>
#include <sys/epoll.h>

#include <cerrno>
#include <span>

#include "base/status.h"

namespace ferrite::migration {
namespace {

constexpr size_t kAtOnce = 8;

}  // namespace

absl::StatusOr<WaitSet> WaitSet::Create() {
  Fd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) {
    return ErrnoStatus("wait for several things: epoll");
  }
  return WaitSet(std::move(epoll));
}

absl::Status WaitSet::Add(int fd, uint32_t tag, bool shared) {
  epoll_event event{.events = EPOLLIN, .data = {.u32 = tag}};
  if (shared) {
    event.events |= EPOLLEXCLUSIVE;
  }
  return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0 ? absl::OkStatus()
                                                                 : ErrnoStatus("wait for several things: epoll");
}

absl::StatusOr<uint32_t> WaitSet::Wait() { return Wait(/*limit_ms=*/-1); }

absl::StatusOr<uint32_t> WaitSet::WaitFor(const Clock& clock, absl::Duration limit) {
  // What is there at once is the usual thing where much is asked for.
  FERRITE_ASSIGN_OR_RETURN(const uint32_t tags, Wait(/*limit_ms=*/0));
  if (tags != 0) {
    return tags;
  }
  pollfd polled{.fd = epoll_.get(), .events = POLLIN, .revents = 0};
  (void)clock.PollFor({&polled, 1}, limit);
  return Wait(/*limit_ms=*/0);
}

absl::StatusOr<uint32_t> WaitSet::Wait(int limit_ms) {
  uint32_t tags = 0;
  for (const auto& [has_something, tag] : checks_) {
    tags |= has_something() ? tag : 0;
  }
  epoll_event ready[kAtOnce];
  int count = -1;
  do {
    count = epoll_wait(epoll_.get(), ready, kAtOnce, tags == 0 ? limit_ms : 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    return ErrnoStatus("wait for several things: epoll_wait");
  }
  for (const epoll_event& event : std::span(ready, static_cast<size_t>(count))) {
    tags |= event.data.u32;
  }
  return tags;
}

}  // namespace ferrite::migration
