// poll(2) for waits that must go on whatever the host lacks.
#ifndef FERRITE_BASE_POLL_H_
#define FERRITE_BASE_POLL_H_

#include <poll.h>

#include <span>

#include "absl/time/time.h"

namespace ferrite {

// Of how many of `polled` there is something to say, for which it waits for `limit` at the longest, and not longer than
// an hour. None, too, when a signal came. Where the kernel cannot wait for them, because it has no memory (ENOMEM) or
// they are more than the files that may be open by now (EINVAL: RLIMIT_NOFILE), only the first one is looked at, after
// a short pause: nothing tells when that is over.
int PollFor(std::span<pollfd> polled, absl::Duration limit);

}  // namespace ferrite

#endif  // FERRITE_BASE_POLL_H_
