#include "base/lock_limit.h"

#include <sys/resource.h>

#include <fstream>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"

namespace ferrite {
namespace {

bool HasCapIpcLock() {
  constexpr int kCapIpcLock = 14;
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    absl::string_view rest = line;
    uint64_t effective = 0;
    if (absl::ConsumePrefix(&rest, "CapEff:") && absl::SimpleHexAtoi(absl::StripAsciiWhitespace(rest), &effective)) {
      return (effective >> kCapIpcLock) & 1;
    }
  }
  return false;
}

}  // namespace

LockLimit ReadLockLimit() {
  LockLimit read{.may_pass = HasCapIpcLock()};
  rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    read.bytes = limit.rlim_cur;
  }
  return read;
}

absl::Status CheckLockLimit(const LockLimit& limit, absl::string_view what, uint64_t bytes) {
  if (limit.Allows(bytes)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(what, " needs ", RoundedByteSize(bytes), " of locked memory, and this process may lock ",
                   RoundedByteSize(limit.bytes),
                   " (RLIMIT_MEMLOCK): raise that with `ulimit -l` or LimitMEMLOCK=, or "
                   "give it CAP_IPC_LOCK"));
}

}  // namespace ferrite
