#include "base/log_backoff.h"

#include <algorithm>
#include <utility>

namespace ferrite {
namespace {

constexpr absl::Duration kLongestPause = absl::Hours(1);

}  // namespace

std::optional<uint64_t> LogBackoff::Count(MonotonicTime now) {
  if (now < next_) {
    ++not_logged_;
    return std::nullopt;
  }
  next_ = now + pause_;
  pause_ = std::min(2 * pause_, kLongestPause);
  return std::exchange(not_logged_, 0);
}

}  // namespace ferrite
