// ioctl(2) on KVM's descriptors, with errors as Status.
#ifndef FERRITE_VMM_KVM_KVM_IOCTL_H_
#define FERRITE_VMM_KVM_KVM_IOCTL_H_

#include <sys/ioctl.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/status.h"

namespace ferrite {

// The request's answer (0 or more); -1 with errno otherwise. Asks again when a signal interrupted it; not for KVM_RUN.
template <typename Argument>
int KvmIoctlRaw(int fd, unsigned long request, Argument argument) {
  int result;
  do {
    result = ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

// The same, for a request whose answer is no number of interest. `name` is for the error: "KVM_SET_REGS".
template <typename Argument>
absl::Status KvmIoctl(int fd, unsigned long request, Argument argument, absl::string_view name) {
  return KvmIoctlRaw(fd, request, argument) < 0 ? ErrnoStatus(name) : absl::OkStatus();
}

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_KVM_IOCTL_H_
