// Waiting for events and for channels at once, without knowing how a channel tells that it has something.
#ifndef FERRITE_MIGRATION_CHANNEL_WAIT_SET_H_
#define FERRITE_MIGRATION_CHANNEL_WAIT_SET_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"

namespace ferrite::migration {

// Each member has a tag, one bit. Follows epoll(7). Threads: one at a time.
class WaitSet {
 public:
  // RESOURCE_EXHAUSTED where there is no descriptor for it.
  static absl::StatusOr<WaitSet> Create();

  // `fd` is readable. `shared`: the members of several sets, of which one is woken (EPOLLEXCLUSIVE).
  absl::Status Add(int fd, uint32_t tag, bool shared = false);
  // For channels that read ahead: what they have is not to be seen in a descriptor. `has_something` is asked before
  // each wait.
  void AddCheck(std::function<bool()> has_something, uint32_t tag) {
    checks_.emplace_back(std::move(has_something), tag);
  }

  // Waits until one has something: the tags of all that have.
  absl::StatusOr<uint32_t> Wait();
  // The same, not longer than `limit`: then of none.
  absl::StatusOr<uint32_t> WaitFor(const Clock& clock, absl::Duration limit);

 private:
  // As epoll_wait(2).
  absl::StatusOr<uint32_t> Wait(int limit_ms);
  explicit WaitSet(Fd epoll) : epoll_(std::move(epoll)) {}

  Fd epoll_;
  std::vector<std::pair<std::function<bool()>, uint32_t>> checks_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_WAIT_SET_H_
