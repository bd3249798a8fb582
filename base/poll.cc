#include "base/poll.h"

#include <algorithm>
#include <cerrno>

#include "absl/time/clock.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(10);
constexpr absl::Duration kLongest = absl::Hours(1);  // a timespec has no infinity

}  // namespace

int PollFor(std::span<pollfd> polled, absl::Duration limit) {
  limit = std::clamp(limit, absl::ZeroDuration(), kLongest);
  const timespec time = absl::ToTimespec(limit);
  int count = ppoll(polled.data(), polled.size(), &time, nullptr);
  if (count >= 0) {
    return count;
  }
  for (pollfd& one : polled) {
    one.revents = 0;
  }
  if (errno == EINTR) {
    return 0;
  }
  FERRITE_CHECK(errno == ENOMEM || errno == EINVAL);
  absl::SleepFor(std::min(kPause, limit));
  count = polled.empty() ? 0 : poll(polled.data(), 1, 0);
  return std::max(count, 0);
}

}  // namespace ferrite
