#include "base/page_map.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/base/const_init.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/status.h"

namespace ferrite {

absl::StatusOr<int> OwnPageMap() {
  static absl::Mutex mutex(absl::kConstInit);
  // Never closed: others may read it until the process is gone. In a child the parent's number may be another file's.
  static int map = -1;
  static pid_t process = -1;
  absl::MutexLock lock(&mutex);
  if (process != getpid()) {
    FERRITE_ASSIGN_OR_RETURN(Fd opened, OpenFile("/proc/self/pagemap", O_RDONLY));
    map = opened.Release();
    process = getpid();
  }
  return map;
}

}  // namespace ferrite
