// How much memory a process may lock or pin: getrlimit(2), capabilities(7).
#ifndef FERRITE_BASE_LOCK_LIMIT_H_
#define FERRITE_BASE_LOCK_LIMIT_H_

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ferrite {

struct LockLimit {
  static constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  uint64_t bytes = kNone;  // RLIMIT_MEMLOCK, the soft one
  bool may_pass = false;   // CAP_IPC_LOCK: it does not hold for this process

  bool Allows(uint64_t more) const { return may_pass || more <= bytes; }
};

// This process's, now.
LockLimit ReadLockLimit();

// FAILED_PRECONDITION, with `what` needs `bytes` and how to raise the limit, where `limit` does not allow them.
absl::Status CheckLockLimit(const LockLimit& limit, absl::string_view what, uint64_t bytes);

}  // namespace ferrite

#endif  // FERRITE_BASE_LOCK_LIMIT_H_
