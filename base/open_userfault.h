// A userfaultfd(2) from the kernel.
#ifndef FERRITE_BASE_OPEN_USERFAULT_H_
#define FERRITE_BASE_OPEN_USERFAULT_H_

#include <functional>

#include "absl/status/statusor.h"
#include "base/fd.h"

namespace ferrite {

// A non-blocking descriptor of which nothing was asked yet. Threads: any.
using UserfaultOpener = std::function<absl::StatusOr<Fd>()>;

// One from /dev/userfaultfd or, where that cannot be opened, the system call; faults of the kernel on behalf of a vCPU
// must be seen too, so USER_MODE_ONLY will not do. FAILED_PRECONDITION, with the remedy, when this process may not have
// one.
absl::StatusOr<Fd> OpenUserfault();

}  // namespace ferrite

#endif  // FERRITE_BASE_OPEN_USERFAULT_H_
