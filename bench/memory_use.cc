#include "bench/memory_use.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "bench/monitor_process.h"
#include "bench/samples.h"

namespace ferrite {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr uintmax_t kDiskBytes = 16 << 20;
constexpr uint64_t kGuestBytes = 128 << 20;
constexpr int kMaxReports = 20;
constexpr int kMaxPauses = 20;

enum class Kind { kGuest, kProgram, kLibrary, kKernel, kAnonymous };

// A mapping's first line in smaps.
struct MappedRange {
  unsigned long begin = 0;
  unsigned long end = 0;
  std::string path;
};

MappedRange ParseRange(const std::string& line) {
  MappedRange range;
  int path_at = 0;
  (void)std::sscanf(line.c_str(), "%lx-%lx %*s %*s %*s %*s %n", &range.begin, &range.end, &path_at);
  range.path = path_at > 0 ? line.substr(static_cast<size_t>(path_at)) : "";
  return range;
}

// Where the anonymous memory of a guest is: a mapping of its size, or several side by side, which is what advice about
// parts of it makes of one. Empty when there is none.
MappedRange FindGuest(const std::string& maps, uint64_t guest_bytes) {
  std::ifstream file(maps);
  std::vector<MappedRange> side_by_side;
  for (std::string line; std::getline(file, line);) {
    const MappedRange range = ParseRange(line);
    if (!range.path.empty() || (!side_by_side.empty() && side_by_side.back().end != range.begin)) {
      side_by_side.clear();
    }
    if (range.path.empty()) {
      side_by_side.push_back(range);
    }
    for (const MappedRange& first : side_by_side) {
      if (range.end - first.begin == guest_bytes) {
        return {.begin = first.begin, .end = range.end, .path = ""};
      }
    }
  }
  return {};
}

Kind KindOf(const MappedRange& range, const std::string& program, const MappedRange& guest) {
  if (absl::StartsWith(range.path, "/memfd:ferrite-") || (guest.begin <= range.begin && range.end <= guest.end)) {
    return Kind::kGuest;
  }
  if (range.path == program) {
    return Kind::kProgram;
  }
  if (absl::StartsWith(range.path, "anon_inode:")) {
    return Kind::kKernel;
  }
  return absl::StartsWith(range.path, "/") ? Kind::kLibrary : Kind::kAnonymous;
}

}  // namespace

std::string MemoryUse::Parts() const {
  return absl::StrFormat("program %.2f, libraries %.2f, mapped by the kernel %.2f, heap, stacks and data %.2f MiB",
                         static_cast<double>(program) / kMiBytes, static_cast<double>(libraries) / kMiBytes,
                         static_cast<double>(kernel) / kMiBytes, static_cast<double>(anonymous) / kMiBytes);
}

absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid, uint64_t guest_bytes) {
  const std::string directory = absl::StrCat("/proc/", pid);
  std::error_code error;
  const std::string program = std::filesystem::read_symlink(directory + "/exe", error).string();
  std::ifstream file(directory + "/smaps");
  if (!file || error) {
    return absl::NotFoundError(absl::StrCat("cannot read ", directory, "/smaps and exe"));
  }
  const MappedRange guest = FindGuest(directory + "/maps", guest_bytes);
  MemoryUse use;
  Kind kind = Kind::kAnonymous;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    uint64_t kib = 0;
    words >> name;
    if (name.empty() || name.back() != ':') {  // a mapping's first line: its range and its file
      kind = KindOf(ParseRange(line), program, guest);
      continue;
    }
    words >> kib;
    const uint64_t bytes = kib << 10;
    if (kind == Kind::kGuest) {
      use.guest_resident += name == "Rss:" ? bytes : 0;
      use.guest_huge += name == "AnonHugePages:" || name == "ShmemPmdMapped:" ? bytes : 0;
    } else if (name == "Rss:") {
      use.resident += bytes;
    } else if (name == "Pss:") {
      use.proportional += bytes;
    } else if (name == "Private_Clean:" || name == "Private_Dirty:") {
      use.own += bytes;
      (kind == Kind::kProgram   ? use.program
       : kind == Kind::kLibrary ? use.libraries
       : kind == Kind::kKernel  ? use.kernel
                                : use.anonymous) += bytes;
    } else if (name == "Anonymous:" && (kind == Kind::kProgram || kind == Kind::kLibrary)) {
      // A file's pages that were written to are this process's own.
      (kind == Kind::kProgram ? use.program : use.libraries) -= bytes;
      use.anonymous += bytes;
    }
  }
  return use;
}

absl::StatusOr<MonitorMemory> MeasureMonitorMemory() {
  char directory[] = "/tmp/ferrite-memory-XXXXXX";
  if (mkdtemp(directory) == nullptr) {
    return ErrnoStatus("make a directory in /tmp");
  }
  std::error_code error;
  const absl::Cleanup remove = [&] { std::filesystem::remove_all(directory, error); };
  const std::string disk = absl::StrCat(directory, "/disk.img");
  std::ofstream(disk).flush();
  std::filesystem::resize_file(disk, kDiskBytes, error);
  // A file of its own: pages that another ferrite of this host maps would not count as this one's.
  const std::string ferrite = absl::StrCat(directory, "/ferrite");
  if (!std::filesystem::copy_file(DataPath("vmm/app/ferrite"), ferrite, error)) {
    return absl::InternalError(absl::StrCat("cannot copy ferrite to ", directory, ": ", error.message()));
  }
  FERRITE_ASSIGN_OR_RETURN(
      const auto monitor,
      MonitorProcess::Start({ferrite, "run", "--debuggable", "--run-dir", directory, "--name", "bench", "--kernel",
                             DataPath("tests/guest/virtio"), "--mem", "128M", "--balloon", "0", "--rng", "--disk",
                             absl::StrCat("path=", disk), "--console", "stdio"}));
  // Until all devices have done something.
  FERRITE_RETURN_IF_ERROR(monitor->WaitFor("event=ready", kTimeout).status());
  const auto work = [&]() -> absl::Status {
    for (int i = 0; i < 5; ++i) {
      FERRITE_RETURN_IF_ERROR(monitor->WaitFor("event=virtio", kTimeout).status());
    }
    return absl::OkStatus();
  };
  const auto command = [&](std::vector<std::string> words) -> absl::Status {
    words.insert(words.begin(), ferrite);
    words.insert(words.end(), {"bench", "--run-dir", directory});
    FERRITE_ASSIGN_OR_RETURN(const auto process, MonitorProcess::Start(words));
    return Annotate(process->WaitForEnd().status(), absl::StrCat("ferrite ", words[1]));
  };
  MonitorMemory memory;
  FERRITE_RETURN_IF_ERROR(work());
  FERRITE_ASSIGN_OR_RETURN(memory.at_rest, ReadMemoryUse(monitor->pid(), kGuestBytes));
  FERRITE_RETURN_IF_ERROR(command({"info"}));
  FERRITE_ASSIGN_OR_RETURN(auto watcher, MonitorProcess::Start({ferrite, "events", "bench", "--run-dir", directory}));
  // It hears of nothing that happened before it was there, and that cannot be seen from here.
  absl::Status heard;
  for (int tries = 0; tries == 0 || (!heard.ok() && tries < kMaxPauses); ++tries) {
    FERRITE_RETURN_IF_ERROR(command({"pause"}));
    heard = watcher->WaitFor("paused", kTimeout / kMaxPauses).status();
    FERRITE_RETURN_IF_ERROR(command({"resume"}));
  }
  FERRITE_RETURN_IF_ERROR(heard);
  FERRITE_ASSIGN_OR_RETURN(const auto inflate, MonitorProcess::Start({ferrite, "balloon", "bench", "16M", "--wait",
                                                                      "--run-dir", directory}));
  FERRITE_RETURN_IF_ERROR(inflate->WaitForEnd().status());
  FERRITE_ASSIGN_OR_RETURN(const auto deflate,
                           MonitorProcess::Start({ferrite, "balloon", "bench", "0", "--wait", "--run-dir", directory}));
  FERRITE_RETURN_IF_ERROR(deflate->WaitForEnd().status());
  FERRITE_RETURN_IF_ERROR(work());
  FERRITE_ASSIGN_OR_RETURN(memory.in_commands, ReadMemoryUse(monitor->pid(), kGuestBytes));
  watcher.reset();
  // The monitor gives back what they used soon after the last of them has gone.
  for (int reports = 0; reports < kMaxReports; ++reports) {
    FERRITE_RETURN_IF_ERROR(work());
    FERRITE_ASSIGN_OR_RETURN(memory.after_commands, ReadMemoryUse(monitor->pid(), kGuestBytes));
    if (memory.after_commands.resident < memory.in_commands.resident) {
      break;
    }
  }
  FERRITE_RETURN_IF_ERROR(command({"stop"}));
  FERRITE_RETURN_IF_ERROR(monitor->WaitForEnd().status());
  return memory;
}

}  // namespace ferrite
