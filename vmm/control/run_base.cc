#include "vmm/control/run_base.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace ferrite {

absl::StatusOr<std::string> RunBase(absl::string_view option) {
  if (!option.empty()) {
    const absl::string_view trimmed = absl::StripSuffix(option, "/");
    return std::string(trimmed.empty() ? "/" : trimmed);
  }
  if (geteuid() == 0) {
    return std::string("/run/ferrite");
  }
  const char* runtime = getenv("XDG_RUNTIME_DIR");
  if (runtime == nullptr || runtime[0] != '/') {
    return absl::FailedPreconditionError(
        "no run directory: XDG_RUNTIME_DIR is not set; set it or name a directory with --run-dir DIR");
  }
  return absl::StrCat(runtime, "/ferrite");
}

absl::Status CheckRunBase(const std::string& base) { return OpenBaseToLook(base).status(); }

absl::Status RefusedBase(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(why, "; choose another with --run-dir"));
}

absl::StatusOr<Fd> OpenBase(const std::string& base, const WalkOptions& options) {
  auto directory = WalkToDirectory(base, options);
  if (absl::IsNotFound(directory.status())) {
    return absl::NotFoundError(absl::StrCat("run directory ", base, " does not exist"));
  }
  if (absl::IsFailedPrecondition(directory.status())) {
    const absl::string_view why = directory.status().message();
    return RefusedBase(absl::StartsWith(why, base) ? absl::StrCat("run directory ", why)
                                                   : absl::StrCat("run directory ", base, ": ", why));
  }
  return directory;
}

absl::StatusOr<Fd> OpenBaseToLook(const std::string& base) {
  return OpenBase(base, {.through_anybodys = geteuid() == 0});
}

absl::StatusOr<std::vector<std::string>> NamesIn(const Fd& base) {
  Fd fd(openat(base.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DIR* const stream = fd.valid() ? fdopendir(fd.get()) : nullptr;
  if (stream == nullptr) {
    return ErrnoStatus(absl::StrCat("read the run directory ", PathAt(base, "")));
  }
  (void)fd.Release();
  const absl::Cleanup close = [stream] { (void)closedir(stream); };
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(stream)) {
    names.emplace_back(entry->d_name);
    errno = 0;
  }
  if (errno != 0 && errno != ENOENT) {
    return ErrnoStatus(absl::StrCat("read the run directory ", PathAt(base, "")));
  }
  return names;
}

}  // namespace ferrite
