#include "migration/placing/memfd_placer.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/placing/own_memory.h"

namespace ferrite::migration {

absl::Status MemfdPlacer::Filled(PageRun run, const uint8_t* buffer) {
  const uint64_t bytes = run.count * kPageBytes;
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t n = pwrite(region().fd(), buffer + done, bytes - done,
                             static_cast<off_t>(region().file_offset() + run.first * kPageBytes + done));
    if (n < 0 && errno != EINTR) {
      return OfOwnMemory(ErrnoStatus(absl::StrCat("write ", bytes, " bytes of memory")));
    }
    done += n < 0 ? 0 : static_cast<uint64_t>(n);
  }
  return Placer::Filled(run, buffer);
}

}  // namespace ferrite::migration
