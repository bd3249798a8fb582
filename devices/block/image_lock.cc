#include "devices/block/image_lock.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

struct ByteRange {
  off_t start;
  off_t bytes;  // 0: to the end of the file, however far it grows
};
constexpr ByteRange kWholeFile{0, 0};
constexpr ByteRange kReads{100, 1};
constexpr ByteRange kWrites{101, 1};
constexpr ByteRange kForbidsWriting{201, 3};

struct flock LockOf(short type, ByteRange range) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = range.start;
  lock.l_len = range.bytes;
  return lock;
}

// 0, or an errno value; EAGAIN for a conflict.
int TryLock(int fd, short type, ByteRange range) {
  struct flock lock = LockOf(type, range);
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
    return 0;
  }
  return errno == EACCES ? EAGAIN : errno;
}

// Whether another open holds a lock that conflicts; -1 in l_pid for an open file description lock.
std::optional<struct flock> FindConflict(int fd, short type, ByteRange range) {
  struct flock lock = LockOf(type, range);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) {
    return std::nullopt;
  }
  return lock;
}

bool HoldsLock(const fs::path& fdinfo) {
  std::ifstream in(fdinfo);
  for (std::string line; std::getline(in, line);) {
    if (absl::StartsWith(line, "lock:")) {
      return true;
    }
  }
  return false;
}

// Others decide how many descriptors there are to look at, and this may be asked while a guest stands still.
constexpr int kMostLookedAt = 4096;

// The process that has the file of `fd` open and locked. The kernel does not say who owns an open file description
// lock, so look at the processes that we are allowed to see, for as long as there are not too many.
std::optional<pid_t> FindHolder(int fd) {
  struct stat ours = {};
  if (fstat(fd, &ours) != 0) {
    return std::nullopt;
  }
  std::error_code error;
  const std::string own_fd = absl::StrCat(fd);
  int looked_at = 0;
  for (fs::directory_iterator process("/proc", error), end; !error && process != end; process.increment(error)) {
    pid_t pid = 0;
    if (!absl::SimpleAtoi(process->path().filename().native(), &pid)) {
      continue;
    }
    std::error_code ignored;
    for (fs::directory_iterator open(process->path() / "fd", ignored); !ignored && open != end;
         open.increment(ignored)) {
      if (++looked_at > kMostLookedAt) {
        return std::nullopt;
      }
      const fs::path number = open->path().filename();
      struct stat theirs = {};
      if ((pid == getpid() && number == own_fd) || stat(open->path().c_str(), &theirs) != 0 ||
          theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino) {
        continue;
      }
      if (HoldsLock(process->path() / "fdinfo" / number)) {
        return pid;
      }
    }
  }
  return std::nullopt;
}

std::string Describe(pid_t pid) {
  if (pid == getpid()) {
    return "this monitor itself";
  }
  std::ifstream in(absl::StrCat("/proc/", pid, "/comm"));
  std::string command;
  std::getline(in, command);
  return command.empty() ? absl::StrCat("process ", pid) : absl::StrCat("process ", pid, " (", command, ")");
}

absl::Status InUse(int fd, absl::string_view path, const struct flock& conflict) {
  std::optional<pid_t> holder;
  if (conflict.l_pid > 0) {
    holder = conflict.l_pid;
  } else {
    holder = FindHolder(fd);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("disk image ", path, " is in use by ",
                   holder.has_value() ? Describe(*holder)
                                      : "a process that /proc does not show (another monitor, or another user's)",
                   "; stop it, or let every user of the image open it read-only"));
}

}  // namespace

absl::Status LockImage(int fd, absl::string_view path, bool for_writing) {
  const short type = for_writing ? F_WRLCK : F_RDLCK;
  for (const ByteRange range : {for_writing ? kWholeFile : kReads, kForbidsWriting}) {
    const int error = TryLock(fd, type, range);
    if (error == 0) {
      continue;
    }
    if (error != EAGAIN) {
      return ErrnoStatus(error, absl::StrCat("lock disk image ", path));
    }
    const auto conflict = FindConflict(fd, type, range);
    const absl::Status status = InUse(fd, path, conflict.value_or(LockOf(F_WRLCK, kWholeFile)));
    UnlockImage(fd);
    return status;
  }
  // QEMU's writers lock shared, too, so that only this question finds them.
  if (const auto conflict = FindConflict(fd, F_WRLCK, kWrites); !for_writing && conflict.has_value()) {
    const absl::Status status = InUse(fd, path, *conflict);
    UnlockImage(fd);
    return status;
  }
  return absl::OkStatus();
}

bool ImageIsLocked(int fd, bool for_writing) {
  // A writer keeps out those who only say that they read.
  return FindConflict(fd, for_writing ? F_RDLCK : F_WRLCK, kReads).has_value() &&
         FindConflict(fd, for_writing ? F_RDLCK : F_WRLCK, kForbidsWriting).has_value();
}

void UnlockImage(int fd) { TryLock(fd, F_UNLCK, kWholeFile); }

}  // namespace ferrite
