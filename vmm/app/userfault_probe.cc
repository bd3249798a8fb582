#include "vmm/app/userfault_probe.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "vmm/app/host_probe.h"

namespace ferrite {
namespace {

constexpr char kArea[] = "userfaultfd";
constexpr char kDevice[] = "/dev/userfaultfd";
constexpr char kNoPostCopy[] = "no post-copy: guests move by pre-copy only";
constexpr char kPermission[] =
    "run as root, or let your user open /dev/userfaultfd (Linux 6.1 or newer; chmod or an ACL), or sysctl "
    "vm.unprivileged_userfaultfd=1";

// Bits of uffdio_api::features; Debian 12's headers (Linux 6.1) lack the later ones.
// Source: include/uapi/linux/userfaultfd.h of Linux 6.18.
struct Feature {
  int bit;
  const char* name;
  const char* cost;
  const char* remedy;
};
constexpr Feature kFeatures[] = {
    {5, "MISSING_SHMEM", "no post-copy of guests in shared memory (memfd)", "Linux 4.11 or newer"},
    {4, "MISSING_HUGETLBFS", "no post-copy of guests on huge pages", "Linux 4.11 or newer"},
    {10, "MINOR_SHMEM", "each page that arrives in post-copy is copied once more", "Linux 5.14 or newer"},
    {9, "MINOR_HUGETLBFS", "each huge page that arrives in post-copy is copied once more", "Linux 5.13 or newer"},
    {8, "THREAD_ID", "no figures of how long each vCPU waited for pages", "Linux 4.14 or newer"},
    {12, "WP_HUGETLBFS_SHMEM", "no write protection of shared memory from user space", "Linux 5.19 or newer"},
    {14, "POISON", "a page that the source's hardware lost cannot be passed on as lost", "Linux 6.6 or newer"},
    {15, "WP_ASYNC", "no cheap tracking of what the monitor's helpers write", "Linux 6.7 or newer"},
    {16, "MOVE", "pages cannot be moved into the guest without a copy (private memory)", "Linux 6.8 or newer"},
};

struct Opened {
  Fd fd;
  int error = 0;
};

Opened OpenBySystemCall(int flags) {
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);
  return fd >= 0 ? Opened{Fd(static_cast<int>(fd)), 0} : Opened{Fd(), errno};
}

Opened OpenByDevice() {
  const Fd device(open(kDevice, O_RDWR | O_CLOEXEC));
  if (!device.valid()) {
    return {Fd(), errno};
  }
  const int fd = ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  return fd >= 0 ? Opened{Fd(fd), 0} : Opened{Fd(), errno};
}

Finding Describe(absl::string_view name, const Opened& opened, bool other_works) {
  Finding finding{.area = kArea, .name = std::string(name), .value = "works"};
  if (!opened.fd.valid()) {
    finding.state = FindingState::kMissing;
    finding.value = strerror(opened.error);
    finding.cost = other_works ? "nothing: the other way works" : kNoPostCopy;
    finding.remedy = opened.error == ENOSYS   ? "a kernel with CONFIG_USERFAULTFD"
                     : opened.error == ENOENT ? "Linux 6.1 or newer"
                                              : kPermission;
  }
  return finding;
}

void AddFeatures(const Fd& userfault, std::vector<Finding>& findings) {
  uffdio_api api = {};
  api.api = UFFD_API;
  if (ioctl(userfault.get(), UFFDIO_API, &api) != 0) {
    findings.push_back({.area = kArea,
                        .name = "features",
                        .state = FindingState::kMissing,
                        .value = absl::StrCat("UFFDIO_API: ", strerror(errno)),
                        .cost = kNoPostCopy,
                        .remedy = "a kernel with this version of userfaultfd"});
    return;
  }
  for (const Feature& feature : kFeatures) {
    Finding finding{.area = kArea, .name = feature.name, .value = "yes"};
    if ((api.features & (uint64_t{1} << feature.bit)) == 0) {
      finding.state = FindingState::kMissing;
      finding.value = "no";
      finding.cost = feature.cost;
      finding.remedy = feature.remedy;
    }
    findings.push_back(std::move(finding));
  }
}

}  // namespace

std::vector<Finding> ProbeUserfault() {
  std::vector<Finding> findings;
  const Opened by_device = OpenByDevice();
  const Opened by_call = OpenBySystemCall(0);
  findings.push_back(Describe(kDevice, by_device, by_call.fd.valid()));
  findings.push_back(Describe("system call", by_call, by_device.fd.valid()));
  if (!by_call.fd.valid() && OpenBySystemCall(UFFD_USER_MODE_ONLY).fd.valid()) {
    findings.back().value += " (allowed for faults in user mode, which KVM's are not)";
  }
  // A way of no use to a user who has another; root and the device do not ask this setting.
  findings.push_back({.area = kArea,
                      .name = "vm.unprivileged_userfaultfd",
                      .value = ReadFirstLine("/proc/sys/vm/unprivileged_userfaultfd").value_or("not there")});
  const Opened& opened = by_device.fd.valid() ? by_device : by_call;
  if (opened.fd.valid()) {
    AddFeatures(opened.fd, findings);
  }
  return findings;
}

}  // namespace ferrite
