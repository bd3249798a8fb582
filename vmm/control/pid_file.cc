#include "vmm/control/pid_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"

namespace ferrite {
namespace {

// Open file description locks belong to the open file, not to the process: closing another descriptor of the same file
// somewhere in the process does not drop them.
struct flock WholeFile(short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

}  // namespace

bool IsPidFileLocked(const Fd& pid_file) {
  struct flock lock = WholeFile(F_WRLCK);
  return fcntl(pid_file.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

bool TryLockPidFile(const Fd& pid_file) {
  struct flock lock = WholeFile(F_WRLCK);
  return fcntl(pid_file.get(), F_OFD_SETLK, &lock) == 0;
}

pid_t ReadPid(const Fd& pid_file) {
  char text[32];
  const ssize_t n = pread(pid_file.get(), text, sizeof(text), 0);
  int32_t pid = 0;
  if (n <= 0 || !absl::SimpleAtoi(absl::string_view(text, static_cast<size_t>(n)), &pid)) {
    return 0;
  }
  return pid;
}

absl::StatusOr<Fd> TakePidFile(const Fd& directory, absl::string_view name) {
  FERRITE_ASSIGN_OR_RETURN(Fd pid_file, OpenRegularAt(directory, kPidFile, O_RDWR | O_CREAT, 0600));
  struct stat info = {};
  if (fstat(pid_file.get(), &info) != 0 || info.st_uid != geteuid() || info.st_nlink > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat(PathAt(directory, kPidFile), " is not a file of this user alone"));
  }
  if (!TryLockPidFile(pid_file)) {
    return absl::AlreadyExistsError(absl::StrCat("a machine named ", name, " is running already (pid ",
                                                 ReadPid(pid_file),
                                                 "); choose another --name, or end it with: ferrite stop ", name));
  }
  return pid_file;
}

}  // namespace ferrite
