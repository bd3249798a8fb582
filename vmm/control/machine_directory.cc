#include "vmm/control/machine_directory.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"
#include "vmm/control/pid_file.h"

namespace ferrite {
namespace {

constexpr size_t kMaxNameLength = 64;

}  // namespace

std::string JoinPath(absl::string_view directory, absl::string_view file) { return absl::StrCat(directory, "/", file); }

absl::Status CheckMachineName(absl::string_view name) {
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name.size() > kMaxNameLength || !characters_ok || name[0] == '.' || name[0] == '-') {
    return absl::InvalidArgumentError(
        absl::StrCat("machine name \"", absl::CHexEscape(name.substr(0, 80)), "\": use 1 to ", kMaxNameLength,
                     " of the characters A-Z a-z 0-9 . _ - and begin with none of . and -"));
  }
  return absl::OkStatus();
}

Fd OpenMachineDirectory(const Fd& base, const std::string& name) {
  return Fd(openat(base.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
}

bool IsOf(uid_t user, const Fd& directory) {
  struct stat info = {};
  return fstat(directory.get(), &info) == 0 && info.st_uid == user && (info.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool IsOwn(const Fd& directory) { return IsOf(geteuid(), directory); }

absl::StatusOr<Fd> OpenOwnDirectory(const Fd& base, const std::string& name) {
  Fd directory = OpenMachineDirectory(base, name);
  if (!directory.valid() && errno != ENOTDIR && errno != ELOOP) {
    return ErrnoStatus(absl::StrCat("open ", PathAt(base, name)));
  }
  if (!directory.valid() || !IsOwn(directory)) {
    return absl::FailedPreconditionError(absl::StrCat(
        PathAt(base, name), " is not a directory of this user alone; remove it or choose another --run-dir"));
  }
  return directory;
}

void RemoveMachineDirectory(const Fd& base, const std::string& name, const Fd& directory) {
  for (const char* file : {kSocketFile, kLogFile, kGrantFile, kUnfinishedGrantFile, kPidFile}) {
    (void)unlinkat(directory.get(), file, 0);
  }
  // One that was made just now, and could not be opened, is nobody else's.
  if (!directory.valid() || IsNamed(base.get(), name, directory)) {
    (void)unlinkat(base.get(), name.c_str(), AT_REMOVEDIR);
  }
}

}  // namespace ferrite
