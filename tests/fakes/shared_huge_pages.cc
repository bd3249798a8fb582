#include "tests/fakes/shared_huge_pages.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr char kSetting[] = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
constexpr char kOfThisSize[] = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled";
constexpr char kLock[] = "/tmp/ferrite-shared-huge-pages.lock";

// The choice in brackets.
std::string Chosen(const char* path) {
  std::string line;
  std::getline(std::ifstream(path), line);
  const size_t open = line.find('[');
  const size_t close = line.find(']');
  return open < close && close != std::string::npos ? line.substr(open + 1, close - open - 1) : "";
}

bool Allows(const std::string& choice) { return !choice.empty() && choice != "never" && choice != "deny"; }

}  // namespace

SharedHugePages::SharedHugePages() : lock_(open(kLock, O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  while (lock_.valid() && flock(lock_.get(), LOCK_EX) != 0 && errno == EINTR) {
  }
  if (const std::string was = Chosen(kSetting); !Allows(was)) {
    Allow(was);
  }
  // Linux 6.11 has a setting for each size, which is to inherit that one.
  const std::string of_this_size = Chosen(kOfThisSize);
  if (const std::string is = Chosen(kSetting); !Allows(is) || (!of_this_size.empty() && !Allows(of_this_size))) {
    status_ = absl::FailedPreconditionError(absl::StrCat("HUGE PAGES OF A MEMFD ARE NOT TESTED: ", kSetting, " is '",
                                                         is, "', ", kOfThisSize, " is '", of_this_size,
                                                         "'; run as root, outside of a sandbox"));
  }
}

void SharedHugePages::Allow(const std::string& was) {
  int ends[2];
  const Fd setting(open(kSetting, O_WRONLY | O_CLOEXEC));
  if (!setting.valid() || pipe2(ends, O_CLOEXEC) != 0) {
    return;
  }
  const Fd ended(ends[0]);
  living_.Reset(ends[1]);
  restorer_ = fork();
  if (restorer_ == 0) {
    // It holds the lock, too; of a process with other threads only system calls are left.
    setsid();
    close(ends[1]);
    char byte = 0;
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR) {
    }
    _exit(write(setting.get(), was.data(), was.size()) > 0 ? 0 : 1);
  }
  if (restorer_ > 0) {
    std::ofstream(kSetting) << "advise" << std::flush;
  }
}

SharedHugePages::~SharedHugePages() {
  living_.Reset();
  while (restorer_ > 0 && waitpid(restorer_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace ferrite
