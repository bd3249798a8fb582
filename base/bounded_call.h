// Calls that heed no limit and cannot be ended, as getaddrinfo(3).
#ifndef FERRITE_BASE_BOUNDED_CALL_H_
#define FERRITE_BASE_BOUNDED_CALL_H_

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace ferrite {

// Runs `work` on a thread of its own, called `name`, and returns what it does; nothing when it takes longer than
// `limit`. It goes on then, and nobody waits for it, also at the end of the process: `late` is called behind it, on its
// thread, to clean up. So both own what they use. RESOURCE_EXHAUSTED without a thread, and then neither is called.
// Threads: any.
std::optional<absl::Status> RunBounded(std::string name, absl::Duration limit, std::function<absl::Status()> work,
                                       std::function<void()> late);

}  // namespace ferrite

#endif  // FERRITE_BASE_BOUNDED_CALL_H_
