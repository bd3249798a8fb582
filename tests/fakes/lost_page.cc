#include "tests/fakes/lost_page.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "base/open_userfault.h"
#include "base/status.h"

namespace ferrite {
namespace {

// Linux 6.6; Debian 12's headers are older.
constexpr uint64_t kPoisonFeature = uint64_t{1} << 14;
struct Poison {
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, Poison);

absl::StatusOr<Fd> Open() {
  FERRITE_ASSIGN_OR_RETURN(Fd fd, OpenUserfault());
  uffdio_api api = {.api = UFFD_API, .features = kPoisonFeature};
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    return absl::UnimplementedError("this kernel has no UFFDIO_POISON: no page can be lost here for a test");
  }
  return fd;
}

}  // namespace

void TellOfLostPage(const void* address) {
  siginfo_t info = {};
  info.si_signo = SIGBUS;
  info.si_code = BUS_MCEERR_AO;
  info.si_addr = const_cast<void*>(address);
  FERRITE_CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info) == 0);
}

absl::Status PageLoser::Supported() { return Open().status(); }

absl::Status PageLoser::Lose(MemoryRegion& region, uint64_t offset) {
  uint8_t* const page = region.guest_mapping().data() + offset;
  if (!fd_.valid()) {
    FERRITE_ASSIGN_OR_RETURN(fd_, Open());
  }
  // The page alone: its neighbours come as they always do.
  uffdio_register range = {.range = {reinterpret_cast<uint64_t>(page), region.host_page_bytes()},
                           .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(fd_.get(), UFFDIO_REGISTER, &range) != 0) {
    return ErrnoStatus("UFFDIO_REGISTER");
  }
  if (madvise(page, region.host_page_bytes(), MADV_DONTNEED) != 0) {
    return ErrnoStatus("madvise");
  }
  Poison poison = {.range = range.range, .mode = 0, .updated = 0};
  return ioctl(fd_.get(), kPoison, &poison) == 0 ? absl::OkStatus() : ErrnoStatus("UFFDIO_POISON");
}

}  // namespace ferrite
