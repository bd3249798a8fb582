#include "vmm/app/host_probe.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"
#include "base/lock_limit.h"
#include "base/memory_settings.h"
#include "base/processors.h"

namespace ferrite {
namespace {

constexpr char kMemoryArea[] = "memory";
constexpr char kIoArea[] = "I/O and fences";
constexpr char kLimitsArea[] = "limits";
constexpr uint64_t kHuge2M = uint64_t{2} << 20;
constexpr uint64_t kHuge1G = uint64_t{1} << 30;

std::string Size(uint64_t bytes) {
  constexpr uint64_t kMiB = uint64_t{1} << 20;
  constexpr uint64_t kGiB = uint64_t{1} << 30;
  if (bytes >= kGiB) {
    return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / kGiB);
  }
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / kMiB);
}

Finding HugePages(const std::string& name, uint64_t page_kib, std::string remedy) {
  const std::string directory = absl::StrCat("/sys/kernel/mm/hugepages/hugepages-", page_kib, "kB/");
  Finding finding{.area = kMemoryArea, .name = absl::StrCat("huge pages of ", name)};
  uint64_t total = 0;
  uint64_t free = 0;
  if (!absl::SimpleAtoi(ReadFirstLine(directory + "nr_hugepages").value_or(""), &total) ||
      !absl::SimpleAtoi(ReadFirstLine(directory + "free_hugepages").value_or(""), &free)) {
    finding.state = FindingState::kMissing;
    finding.value = "not supported";
  } else {
    finding.value = absl::StrCat(free, " free of ", total);
    finding.state = free > 0 ? FindingState::kOk : total > 0 ? FindingState::kLimited : FindingState::kMissing;
  }
  if (finding.state != FindingState::kOk) {
    finding.cost = absl::StrCat("no guests with --memory-backing hugetlb-", name.substr(0, 2),
                                " (fewer TLB misses, fewer faults in a move)");
    finding.remedy = std::move(remedy);
  }
  return finding;
}

// A file of /sys that lists choices, the chosen one in brackets. `guests` have huge pages by it, unless that costs
// them.
Finding TransparentHugePages(const std::string& name, const std::string& file, absl::string_view guests,
                             std::string cost) {
  const std::string path = "/sys/kernel/mm/transparent_hugepage/" + file;
  Finding finding{.area = kMemoryArea, .name = name};
  finding.value = HugePageChoice(file).value_or("not supported");
  if (finding.value == "not supported" || finding.value == "never" || finding.value == "deny") {
    finding.state = FindingState::kMissing;
    finding.cost = std::move(cost);
    finding.remedy = absl::StrCat("echo ", file == "enabled" ? "madvise" : "advise", " | sudo tee ", path);
  } else {
    absl::StrAppend(&finding.value, " (", guests, " have them, unless --thp off)");
  }
  return finding;
}

// The kernel counts lost pages in /proc/meminfo where it can lose one and live.
Finding MemoryFailure() {
  Finding finding{.area = kMemoryArea, .name = "lost pages"};
  if (const std::optional<uint64_t> lost = MemInfoBytes("HardwareCorrupted"); lost.has_value()) {
    finding.value = absl::StrCat("told of, ", Size(*lost), " lost so far");
    return finding;
  }
  finding.state = FindingState::kMissing;
  finding.value = "no CONFIG_MEMORY_FAILURE";
  finding.cost = "a page that the hardware loses takes the host with it, and no guest is told";
  finding.remedy = "a kernel with CONFIG_MEMORY_FAILURE (Debian's linux-image-amd64; the cloud kernel has it not)";
  return finding;
}

Finding IoUring() {
  io_uring_params parameters = {};
  const Fd ring(static_cast<int>(syscall(SYS_io_uring_setup, 1, &parameters)));
  return IoUringFinding(ring.valid() ? 0 : errno);
}

Finding Tun() {
  Finding finding{.area = kIoArea, .name = "/dev/net/tun", .value = "works"};
  const Fd tun(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (!tun.valid()) {
    const int error = errno;
    finding.state = FindingState::kMissing;
    finding.value = strerror(error);
    finding.cost = "no network for guests over tap devices";
    finding.remedy = error == EACCES || error == EPERM ? "chmod 0666 /dev/net/tun, or run as root" : "modprobe tun";
  }
  return finding;
}

Finding Landlock() {
  Finding finding{.area = kIoArea, .name = "Landlock"};
  const long abi = syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi > 0) {
    finding.value = absl::StrCat("ABI ", abi);
  } else {
    finding.state = FindingState::kMissing;
    finding.value = strerror(errno);
    finding.cost = "the monitor cannot be kept from files that are not its own";
    finding.remedy = "Linux 5.13 or newer with landlock in CONFIG_LSM or in lsm= of its command line";
  }
  return finding;
}

Finding Seccomp() {
  Finding finding{.area = kIoArea, .name = "seccomp filters", .value = "works"};
  const uint32_t action = SECCOMP_RET_KILL_PROCESS;
  if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) != 0) {
    finding.state = FindingState::kMissing;
    finding.value = strerror(errno);
    finding.cost = "the monitor cannot be kept from system calls that it does not need";
    finding.remedy = "Linux 4.14 or newer with CONFIG_SECCOMP_FILTER";
  }
  return finding;
}

Finding LockedMemory() {
  Finding finding{.area = kLimitsArea, .name = "locked memory"};
  const LockLimit limit = ReadLockLimit();
  const bool is_limited = limit.bytes != LockLimit::kNone;
  finding.value = is_limited ? Size(limit.bytes) : "no limit";
  if (is_limited && limit.may_pass) {
    finding.value += ", but this user may pass it (CAP_IPC_LOCK)";
  } else if (is_limited) {
    finding.state = FindingState::kLimited;
    finding.cost = "guests with more memory cannot be locked into RAM, and do not move over RDMA";
    finding.remedy =
        "ulimit -l unlimited (as root), LimitMEMLOCK=infinity in a systemd unit, or memlock in "
        "/etc/security/limits.conf";
  }
  return finding;
}

Finding OpenFiles() {
  // Sockets, disks, and three descriptors for each vCPU and queue: some hundreds for the largest machine.
  constexpr rlim_t kEnough = 1024;
  Finding finding{.area = kLimitsArea, .name = "open files"};
  rlimit limit = {};
  getrlimit(RLIMIT_NOFILE, &limit);
  finding.value = absl::StrCat(limit.rlim_cur, " (may be raised to ", limit.rlim_max, ")");
  if (limit.rlim_cur < kEnough) {
    finding.state = FindingState::kLimited;
    finding.cost = "machines with many vCPUs, devices or clients";
    finding.remedy = absl::StrCat("ulimit -n ", kEnough);
  }
  return finding;
}

Finding Procfs() {
  Finding finding{.area = kLimitsArea, .name = "procfs", .value = "mounted at /proc"};
  if (!ProcfsIsThere()) {
    finding.state = FindingState::kMissing;
    finding.value = "not mounted at /proc";
    finding.cost = "nothing but `doctor` and `version` works";
    finding.remedy = "mount -t proc proc /proc";
  }
  return finding;
}

Finding Processors() {
  return {.area = kLimitsArea,
          .name = "processors",
          .value = absl::StrCat(UsableProcessors(), " usable of ", sysconf(_SC_NPROCESSORS_ONLN))};
}

}  // namespace

bool ProcfsIsThere() {
  struct statfs info = {};
  return statfs("/proc", &info) == 0 && info.f_type == PROC_SUPER_MAGIC && access("/proc/self/fd", F_OK) == 0;
}

Finding GroupMemoryFinding(const std::optional<GroupLimit>& limit) {
  Finding finding{.area = kLimitsArea, .name = "cgroup memory", .value = "no limit"};
  if (limit.has_value()) {
    finding.state = FindingState::kLimited;
    finding.value = absl::StrCat(Size(limit->limit), ", ", Size(limit->used), " in use");
    finding.cost = "all guests of this group together have no more memory";
    finding.remedy = absl::StrCat("MemoryMax= of the systemd unit, or ", limit->file);
  }
  return finding;
}

Finding GroupHugePagesFinding(const std::string& name, uint64_t page_bytes, const std::optional<GroupLimit>& limit) {
  Finding finding{.area = kLimitsArea, .name = absl::StrCat("cgroup huge pages of ", name), .value = "no limit"};
  if (limit.has_value()) {
    finding.state = limit->left() < page_bytes ? FindingState::kMissing : FindingState::kLimited;
    finding.value = absl::StrCat(limit->left() / page_bytes, " left of ", limit->limit / page_bytes);
    finding.cost = absl::StrCat("all guests of this group together have no more of them (--memory-backing hugetlb-",
                                name, "), however many are free");
    finding.remedy = absl::StrCat("echo max | sudo tee ", limit->file);
  }
  return finding;
}

Finding IoUringFinding(int error) {
  Finding finding{.area = kIoArea, .name = "io_uring", .value = "works"};
  if (error == 0) {
    return finding;
  }
  finding.state = FindingState::kLimited;
  finding.value = strerror(error);
  finding.cost = "disks use threads, a system call for each request";
  finding.remedy = error == ENOSYS   ? "a kernel with CONFIG_IO_URING"
                   : error == ENOMEM ? "a higher limit of locked memory (ulimit -l)"
                                     : "sysctl kernel.io_uring_disabled=0, and a container that lets the call pass";
  return finding;
}

std::optional<std::string> ReadFirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) {
    return std::nullopt;
  }
  return line;
}

std::vector<Finding> ProbeMemory() {
  const std::optional<uint64_t> available = MemInfoBytes("MemAvailable");
  const std::optional<uint64_t> total = MemInfoBytes("MemTotal");
  return {
      {.area = kMemoryArea,
       .name = "available",
       .value = available && total ? absl::StrCat(Size(*available), " of ", Size(*total)) : "unknown"},
      HugePages("2M", 2048, "echo COUNT | sudo tee /proc/sys/vm/nr_hugepages"),
      HugePages("1G", 1048576,
                "echo COUNT | sudo tee /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages, or hugepagesz=1G "
                "hugepages=COUNT on the host's kernel command line"),
      TransparentHugePages(
          "transparent, shared memory", "shmem_enabled", "guests with --memory-backing memfd",
          "guests with --memory-backing memfd run on 4 KiB pages, slower, and move slower, --thp on or "
          "not"),
      TransparentHugePages("transparent, private memory", "enabled", "guests on anonymous memory",
                           "guests run on 4 KiB pages, slower, and move slower (--memory-backing anon, the default)"),
      MemoryFailure(),
  };
}

std::vector<Finding> ProbeIo() { return {IoUring(), Tun(), Landlock(), Seccomp()}; }

std::vector<Finding> ProbeLimits() {
  utsname system = {};
  uname(&system);
  return {{.area = kLimitsArea, .name = "kernel", .value = absl::StrCat(system.sysname, " ", system.release)},
          Procfs(),
          Processors(),
          LockedMemory(),
          OpenFiles(),
          GroupMemoryFinding(MemoryGroupLimit(0)),
          GroupHugePagesFinding("2M", kHuge2M, HugePageGroupLimit(kHuge2M)),
          GroupHugePagesFinding("1G", kHuge1G, HugePageGroupLimit(kHuge1G))};
}

}  // namespace ferrite
