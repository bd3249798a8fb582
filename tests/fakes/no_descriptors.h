// A process without room for one more open file.
#ifndef FERRITE_TESTS_FAKES_NO_DESCRIPTORS_H_
#define FERRITE_TESTS_FAKES_NO_DESCRIPTORS_H_

#include <fcntl.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "base/status.h"

namespace ferrite {

// While it lives, whatever makes a descriptor fails (EMFILE), for the whole process. What is closed meanwhile makes
// room.
class NoDescriptors {
 public:
  NoDescriptors() {
    FERRITE_CHECK(getrlimit(RLIMIT_NOFILE, &before_) == 0);
    // The lowest that is free is the first beyond the limit.
    const Fd lowest(fcntl(0, F_DUPFD_CLOEXEC, 0));
    FERRITE_CHECK(lowest.valid());
    const rlimit none{.rlim_cur = static_cast<rlim_t>(lowest.get()), .rlim_max = before_.rlim_max};
    FERRITE_CHECK(setrlimit(RLIMIT_NOFILE, &none) == 0);
  }
  ~NoDescriptors() { FERRITE_CHECK(setrlimit(RLIMIT_NOFILE, &before_) == 0); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_NO_DESCRIPTORS_H_
