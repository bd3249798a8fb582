#include "tests/fakes/task_limit.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/poll.h"
#include "base/status.h"

namespace ferrite {
namespace {

// In one write, as the kernel wants it.
absl::Status WriteTo(const std::string& path, const std::string& text) {
  const Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(absl::StrCat("write ", text, " to ", path));
  }
  return absl::OkStatus();
}

std::string Contents(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Where version 1's controller is mounted, or version 2 with the controller in it; empty: nowhere.
std::string FindRoot() {
  for (const absl::string_view line : absl::StrSplit(Contents("/proc/mounts"), '\n', absl::SkipEmpty())) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 4) {
      continue;
    }
    const std::vector<std::string> options = absl::StrSplit(fields[3], ',');
    const std::vector<std::string> controllers =
        absl::StrSplit(Contents(absl::StrCat(fields[1], "/cgroup.controllers")), absl::ByAnyChar(" \n"));
    const std::vector<std::string>& names = fields[2] == "cgroup" ? options : controllers;
    if ((fields[2] == "cgroup" || fields[2] == "cgroup2") &&
        std::find(names.begin(), names.end(), "pids") != names.end()) {
      return fields[1];
    }
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<TaskLimit>> TaskLimit::Create() {
  std::string root = FindRoot();
  std::string mounted;
  if (root.empty()) {
    char name[] = "/tmp/ferrite-groups-XXXXXX";
    if (mkdtemp(name) == nullptr) {
      return ErrnoStatus("make a directory");
    }
    mounted = name;
    if (mount("none", name, "cgroup2", 0, nullptr) != 0) {
      const absl::Status status = ErrnoStatus("mount cgroup2");
      rmdir(name);
      return status;
    }
    root = mounted;
  }
  std::unique_ptr<TaskLimit> limit(new TaskLimit(root, mounted));
  if (access(absl::StrCat(root, "/cgroup.subtree_control").c_str(), F_OK) == 0) {
    FERRITE_RETURN_IF_ERROR(WriteTo(absl::StrCat(root, "/cgroup.subtree_control"), "+pids"));
  }
  // A name of its own: what a killed test left behind may have any process's number.
  std::string group = absl::StrCat(root, "/ferrite-test-XXXXXX");
  if (mkdtemp(group.data()) == nullptr) {
    return ErrnoStatus(absl::StrCat("make ", group));
  }
  limit->group_ = std::move(group);
  return limit;
}

TaskLimit::~TaskLimit() {
  // A process that is ending can be moved no more, and holds the group until it has; version 1 has no event for that.
  const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(5);
  while (!group_.empty()) {
    const std::string processes = Contents(group_ + "/cgroup.procs");
    for (const absl::string_view process : absl::StrSplit(processes, '\n', absl::SkipEmpty())) {
      (void)WriteTo(absl::StrCat(root_, "/cgroup.procs"), std::string(process));
    }
    if (rmdir(group_.c_str()) == 0 || errno != EBUSY || MonotonicTime::Now() >= deadline) {
      break;
    }
    (void)PollFor({}, absl::Milliseconds(10));
  }
  if (!mounted_.empty()) {
    umount2(mounted_.c_str(), MNT_DETACH);
    rmdir(mounted_.c_str());
  }
}

absl::Status TaskLimit::Add(pid_t process) const {
  return WriteTo(absl::StrCat(group_, "/cgroup.procs"), absl::StrCat(process));
}

absl::Status TaskLimit::SetMost(uint64_t tasks) const {
  return WriteTo(absl::StrCat(group_, "/pids.max"), absl::StrCat(tasks));
}

absl::Status TaskLimit::Lift() const { return WriteTo(absl::StrCat(group_, "/pids.max"), "max"); }

absl::StatusOr<uint64_t> TaskLimit::Count() const {
  const std::string text = Contents(absl::StrCat(group_, "/pids.current"));
  uint64_t count = 0;
  if (!absl::SimpleAtoi(text, &count)) {
    return absl::InternalError(absl::StrCat(group_, "/pids.current: ", text));
  }
  return count;
}

}  // namespace ferrite
