#include "vmm/control/base_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "vmm/control/run_base.h"

namespace ferrite {
namespace {

// Changes of a base directory take milliseconds: a lock that is held for longer is not one of ours.
constexpr absl::Duration kLockPatience = absl::Seconds(10);
constexpr absl::Duration kLockPoll = absl::Milliseconds(2);  // flock(2) can only wait without a limit
// How often the base directory that is being made may be taken away by a monitor that ends.
constexpr int kMakeAttempts = 20;

}  // namespace

absl::StatusOr<BaseLock> BaseLock::Take(const Fd& base) {
  std::string name = absl::StrCat(".lock.", geteuid());
  const MonotonicTime deadline = MonotonicTime::Now() + kLockPatience;
  while (true) {
    auto opened = OpenRegularAt(base, name, O_RDWR | O_CREAT, 0600);
    if (absl::IsFailedPrecondition(opened.status())) {
      return RefusedBase(opened.status().message());
    }
    FERRITE_ASSIGN_OR_RETURN(Fd file, std::move(opened));
    struct stat info = {};
    if (fstat(file.get(), &info) != 0 || info.st_uid != geteuid() || (info.st_mode & 077) != 0) {
      return RefusedBase(absl::StrCat(PathAt(base, name), " is not this user's alone: remove it"));
    }
    if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) {
      // Whoever held it before may have removed it.
      if (IsNamed(base.get(), name, file)) {
        return BaseLock(base.get(), std::move(name), std::move(file));
      }
    } else if (errno != EINTR && errno != EWOULDBLOCK) {
      return ErrnoStatus(absl::StrCat("lock ", PathAt(base, name)));
    }
    if (MonotonicTime::Now() >= deadline) {
      return absl::UnavailableError(absl::StrCat("another process keeps the lock ", PathAt(base, name), " for ",
                                                 absl::FormatDuration(kLockPatience),
                                                 " already; end that or choose another --run-dir"));
    }
    absl::SleepFor(kLockPoll);
  }
}

BaseLock::~BaseLock() {
  if (file_.valid() && IsNamed(base_, name_, file_)) {
    (void)unlinkat(base_, name_.c_str(), 0);
  }
}

absl::StatusOr<LockedBase> MakeAndLockBase(const std::string& base, std::vector<MadeDirectory>& made) {
  absl::Status status;
  for (int attempt = 0; attempt < kMakeAttempts; ++attempt) {
    auto directory = OpenBase(base, {.made = &made});
    status = directory.status();
    if (status.ok()) {
      auto lock = BaseLock::Take(*directory);
      if (lock.ok()) {
        return LockedBase{*std::move(directory), *std::move(lock)};
      }
      status = lock.status();
    }
    if (!absl::IsNotFound(status)) {
      break;
    }
  }
  return status;
}

}  // namespace ferrite
