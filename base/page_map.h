// The page map of this process: /proc/self/pagemap (Linux, Documentation/admin-guide/mm/pagemap.rst).
#ifndef FERRITE_BASE_PAGE_MAP_H_
#define FERRITE_BASE_PAGE_MAP_H_

#include <functional>

#include "absl/status/statusor.h"

namespace ferrite {

// A descriptor of it, which stays the callee's. Threads: any.
using PageMapOpener = std::function<absl::StatusOr<int>()>;

// Its descriptor, opened by the first call and then kept for the life of the process: one that others may not look into
// (prctl(2), PR_SET_DUMPABLE) cannot open it any more, unless it is root's. A child that did not exec has a map of its
// own, and opens it by its own first call. Threads: any.
absl::StatusOr<int> OwnPageMap();

}  // namespace ferrite

#endif  // FERRITE_BASE_PAGE_MAP_H_
