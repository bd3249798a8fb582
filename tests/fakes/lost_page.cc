#include "tests/fakes/lost_page.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
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

// A page that is there, and is no zero page of the kernel's.
absl::Status MakePresent(uint8_t* page, uint64_t bytes) {
  return madvise(page, bytes, MADV_POPULATE_WRITE) == 0
             ? absl::OkStatus()
             : ErrnoStatus("MADV_POPULATE_WRITE of a page that is to be lost");
}

absl::Status ExpectLost(uint8_t* page, uint64_t bytes) {
  const bool good = madvise(page, bytes, MADV_POPULATE_READ) == 0;
  return !good && errno == EHWPOISON
             ? absl::OkStatus()
             : absl::InternalError(absl::StrCat("a page that was broken is not lost: errno ", good ? 0 : errno));
}

struct Victim {
  uint8_t* page;
  uint64_t bytes;
};

absl::Status NotLost(int error, absl::string_view what) {
  const absl::Status status = ErrnoStatus(error, what);
  return error == EAGAIN ? absl::UnavailableError(status.message()) : status;
}

int Break(void* of) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  const auto* const victim = static_cast<const Victim*>(of);
  const bool broken =
      sigaction(SIGBUS, &action, nullptr) == 0 && madvise(victim->page, victim->bytes, MADV_HWPOISON) == 0;
  return broken ? 0 : errno;
}

// Since Linux 6.7 who breaks a page is told at once, by a signal. So it is a process of its own in our memory, with
// handlers of its own; we are told as late as anybody is whose hardware fails.
absl::Status BreakForGood(uint8_t* page, uint64_t bytes) {
  FERRITE_RETURN_IF_ERROR(MakePresent(page, bytes));
  alignas(16) static thread_local uint8_t stack[16384];
  Victim victim = {.page = page, .bytes = bytes};
  const pid_t child = clone(Break, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &victim);
  int status = 0;
  if (child < 0 || TEMP_FAILURE_RETRY(waitpid(child, &status, 0)) != child) {
    return ErrnoStatus("a process that breaks a page");
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return NotLost(WIFEXITED(status) ? WEXITSTATUS(status) : EINTR, "MADV_HWPOISON");
  }
  return ExpectLost(page, bytes);
}

// As if the hardware had found it by itself: nobody is in the middle of anything.
absl::Status BreakBehindOurBack(uint8_t* page, uint64_t bytes) {
  constexpr uint64_t kFrame = (uint64_t{1} << 55) - 1;
  FERRITE_RETURN_IF_ERROR(MakePresent(page, bytes));
  uint64_t entry = 0;
  // Read as it is: it wants whole entries.
  const Fd page_map(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  const auto at = static_cast<off_t>(reinterpret_cast<uint64_t>(page) / kPageBytes * sizeof(entry));
  if (pread(page_map.get(), &entry, sizeof(entry), at) != sizeof(entry)) {
    return ErrnoStatus("/proc/self/pagemap of a page that is to be lost");
  }
  std::ofstream corrupt("/sys/kernel/debug/hwpoison/corrupt-pfn");
  if (!(corrupt << (entry & kFrame) << std::flush)) {
    return ErrnoStatus("break a page by hwpoison-inject");
  }
  return ExpectLost(page, bytes);
}

}  // namespace

void TellOfLostPage(const void* address) {
  siginfo_t info = {};
  info.si_signo = SIGBUS;
  info.si_code = BUS_MCEERR_AO;
  info.si_addr = const_cast<void*>(address);
  FERRITE_CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info) == 0);
}

bool PageLoser::Real() {
  const char* const poison = std::getenv("FERRITE_TEST_POISON");
  return poison != nullptr && std::string_view(poison) == "real";
}

absl::Status PageLoser::Supported() { return Real() ? absl::OkStatus() : Open().status(); }

absl::Status PageLoser::Lose(MemoryRegion& region, uint64_t offset) {
  uint8_t* const page = region.guest_mapping().data() + offset;
  return Real() ? BreakForGood(page, region.host_page_bytes()) : Mark(region, page);
}

absl::Status PageLoser::LoseTold(MemoryRegion& region, uint64_t offset) {
  uint8_t* const page = region.guest_mapping().data() + offset;
  if (Real()) {
    return BreakBehindOurBack(page, region.host_page_bytes());
  }
  FERRITE_RETURN_IF_ERROR(Mark(region, page));
  TellOfLostPage(page + 8);
  return absl::OkStatus();
}

absl::Status PageLoser::Mark(MemoryRegion& region, uint8_t* page) {
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
  return ioctl(fd_.get(), kPoison, &poison) == 0 ? absl::OkStatus() : NotLost(errno, "UFFDIO_POISON");
}

}  // namespace ferrite
