#include "bench/process_figures.h"

#include <time.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr double kNs = 1e-9;
constexpr double kKiBPerMiB = 1024;

}  // namespace

absl::StatusOr<double> CpuOfProcess(pid_t pid) {
  clockid_t clock = 0;
  timespec time = {};
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0) {
    return ErrnoStatus(absl::StrCat("read the processor time of process ", pid));
  }
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * kNs;
}

absl::StatusOr<double> CpuOfThreads(pid_t pid, absl::string_view name) {
  std::error_code error;
  double seconds = 0;
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    std::string its_name;
    std::ifstream comm(entry.path() / "comm");
    std::getline(comm, its_name);
    // The first figure is its time on a processor (Linux, Documentation/scheduler/sched-stats.rst).
    double on_processor_ns = 0;
    std::ifstream schedstat(entry.path() / "schedstat");
    if (absl::StartsWith(its_name, name) && schedstat >> on_processor_ns) {
      seconds += on_processor_ns * kNs;
      ++found;
    }
  }
  if (error || found == 0) {
    return absl::NotFoundError(absl::StrCat("process ", pid, " has no thread '", name, "...' with a schedstat"));
  }
  return seconds;
}

absl::StatusOr<double> HugeMiB(pid_t pid, uint64_t memory_mib) {
  const std::string path = absl::StrCat("/proc/", pid, "/smaps");
  std::ifstream file(path);
  if (!file) {
    return ErrnoStatus(absl::StrCat("open ", path));
  }
  const uint64_t least = (memory_mib << 20) / 64;
  bool counts = false;
  double kib = 0;
  for (std::string line; std::getline(file, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      counts = end - begin >= least;
      continue;
    }
    for (const char* name :
         {"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"}) {
      if (counts && absl::StartsWith(line, name)) {
        std::istringstream words(line);
        std::string skipped;
        double value = 0;
        words >> skipped >> value;
        kib += value;
      }
    }
  }
  return kib / kKiBPerMiB;
}

}  // namespace ferrite
