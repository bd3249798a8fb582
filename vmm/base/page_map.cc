#include "vmm/base/page_map.h"

#include <fcntl.h>
#include <unistd.h>

#include <utility>

#include "absl/base/const_init.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/fd.h"
#include "vmm/base/status.h"

namespace ferrite {

absl::StatusOr<int> OwnPageMap() {
  static absl::Mutex mutex(absl::kConstInit);
  static Fd* map = nullptr;  // never closed: others may read it until the process is gone
  static pid_t process = -1;
  absl::MutexLock lock(&mutex);
  if (map == nullptr || process != getpid()) {
    FERRITE_ASSIGN_OR_RETURN(Fd opened, OpenFile("/proc/self/pagemap", O_RDONLY));
    if (map != nullptr) {
      // The parent's. Whoever cleaned up after the fork may have given its number to something else.
      (void)map->Release();
      delete map;
    }
    map = new Fd(std::move(opened));
    process = getpid();
  }
  return map->get();
}

}  // namespace ferrite
