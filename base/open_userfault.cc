#include "base/open_userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

// Newer than Debian 12's headers (Linux 6.1).
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace ferrite {

absl::StatusOr<Fd> OpenUserfault() {
  const Fd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device.valid()) {
    Fd fd(ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (fd.valid()) {
      return fd;
    }
  }
  if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
    // The system call may need a right that this process lacks, which would be the wrong thing to tell.
    return ErrnoStatus("userfaultfd");
  }
  Fd fd(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd.valid()) {
    if (errno == ENOSYS) {
      return absl::FailedPreconditionError("this kernel has no userfaultfd (CONFIG_USERFAULTFD)");
    }
    return absl::FailedPreconditionError(
        absl::StrCat(ErrnoStatus("userfaultfd").message(),
                     "; give this user access to /dev/userfaultfd, or set the sysctl vm.unprivileged_userfaultfd=1"));
  }
  return fd;
}

}  // namespace ferrite
