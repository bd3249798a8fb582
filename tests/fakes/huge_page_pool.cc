#include "tests/fakes/huge_page_pool.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr char kPool[] = "/proc/sys/vm/nr_hugepages";
constexpr char kFree[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
constexpr char kReserved[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages";
constexpr char kLock[] = "/tmp/ferrite-huge-pages.lock";

uint64_t ReadNumber(const char* path) {
  uint64_t number = 0;
  std::ifstream(path) >> number;
  return number;
}

}  // namespace

HugePagePool::HugePagePool(uint64_t pages) : lock_(open(kLock, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  while (lock_.valid() && flock(lock_.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  before_ = ReadNumber(kPool);
  // Pages that a test has broken stay in the pool, and are not to be had: they are asked for once more.
  uint64_t free = 0;
  for (uint64_t wanted = before_ + pages, tries = 0; tries < 3 && free < pages; wanted += pages - free, ++tries) {
    std::ofstream(kPool) << wanted << std::flush;
    free = ReadNumber(kFree) - ReadNumber(kReserved);
  }
  if (free < pages) {
    status_ = absl::ResourceExhaustedError(
        absl::StrCat("HUGE PAGES ARE NOT TESTED: ", kPool, " gave ", free, " free ones of ", pages,
                     "; run as root on a machine whose memory is not too fragmented"));
  }
}

HugePagePool::~HugePagePool() { std::ofstream(kPool) << before_ << std::flush; }

}  // namespace ferrite
