#include "migration/channel/rdma/work_waiter.h"

#include <poll.h>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"

namespace ferrite::migration {

absl::StatusOr<size_t> WorkWaiter::Take(std::span<Completion> into) {
  FERRITE_ASSIGN_OR_RETURN(const size_t count, pair_.TakeCompletions(into));
  for (const Completion& one : into.first(count)) {
    if (!one.status.ok()) {
      return absl::UnavailableError(absl::StrCat(stream_.peer(), ": ", one.status.message()));
    }
  }
  if (count == 0 && pair_.broken()) {
    return absl::UnavailableError(absl::StrCat(stream_.peer(), ": the queue pair broke"));
  }
  return count;
}

absl::StatusOr<size_t> WorkWaiter::Await(std::span<Completion> into) {
  FERRITE_ASSIGN_OR_RETURN(size_t count, Take(into));
  const MonotonicTime start = clock_.Now();
  while (count == 0) {
    FERRITE_RETURN_IF_ERROR(pair_.Arm());
    FERRITE_ASSIGN_OR_RETURN(count, Take(into));
    if (count > 0) {
      break;
    }
    const absl::Duration left = absl::Nanoseconds(patience_.load()) - (clock_.Now() - start);
    if (left <= absl::ZeroDuration()) {
      return absl::UnavailableError(absl::StrCat(stream_.peer(), ": RDMA made no progress"));
    }
    // What may be read of the stream is no news.
    pollfd polled[] = {{.fd = pair_.fd(), .events = POLLIN, .revents = 0},
                       {.fd = stream_.fd(), .events = POLLRDHUP, .revents = 0}};
    (void)clock_.PollFor(polled, left);
    if (polled[1].revents != 0) {
      return absl::UnavailableError(absl::StrCat(stream_.peer(), " closed the connection"));
    }
    FERRITE_ASSIGN_OR_RETURN(count, Take(into));
  }
  return count;
}

}  // namespace ferrite::migration
