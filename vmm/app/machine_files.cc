#include "vmm/app/machine_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"

namespace ferrite {
namespace {

absl::Status CheckFile(absl::string_view option, bool writable, const std::string& path) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) {
    return ErrnoStatus(absl::StrCat(option, ": ", path));
  }
  if (S_ISDIR(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", path, " is a directory, not a file"));
  }
  if (access(path.c_str(), writable ? R_OK | W_OK : R_OK) != 0) {
    return ErrnoStatus(absl::StrCat(option, ": ", path));
  }
  return absl::OkStatus();
}

absl::Status CheckBootFiles(const std::string& kernel, const std::string& initrd) {
  FERRITE_RETURN_IF_ERROR(CheckFile("--kernel", /*writable=*/false, kernel));
  return initrd.empty() ? absl::OkStatus() : CheckFile("--initrd", /*writable=*/false, initrd);
}

}  // namespace

absl::Status CheckFiles(const MachineConfig& config) {
  FERRITE_RETURN_IF_ERROR(CheckBootFiles(config.kernel_path, config.initrd_path));
  for (const DiskConfig* disk : config.all<DiskConfig>()) {
    FERRITE_RETURN_IF_ERROR(CheckFile("--disk", /*writable=*/!disk->read_only, disk->path));
  }
  return absl::OkStatus();
}

void WarnOfOthersDisk(const std::string& path, bool read_only) {
  std::error_code error;
  const std::filesystem::path image = std::filesystem::canonical(path, error);
  struct stat info = {};
  if (error || stat(image.c_str(), &info) != 0) {
    return;  // whoever opens it says so
  }
  // Whoever may read a file may take a lock that keeps a writer out.
  mode_t group = (read_only ? 0 : S_IRGRP) | S_IWGRP;
  mode_t others = (read_only ? 0 : S_IROTH) | S_IWOTH;
  group = S_ISBLK(info.st_mode) ? 0 : group & info.st_mode;
  others &= info.st_mode;
  for (auto directory = image; (group | others) != 0 && directory.has_relative_path();) {
    directory = directory.parent_path();
    struct stat on_the_way = {};
    if (stat(directory.c_str(), &on_the_way) != 0) {
      return;
    }
    others = (on_the_way.st_mode & S_IXOTH) != 0 ? others : 0;
    group = (on_the_way.st_mode & (S_IXGRP | S_IXOTH)) != 0 ? group : 0;
  }
  if ((group | others) != 0) {
    Log().warn(
        "--disk: {} can be opened by {}: they can keep the guest from running on after a move, by a lock; "
        "chmod 600 {}",
        path, others != 0 ? "others" : "its group", path);
  }
}

absl::StatusOr<std::string> AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  if (error) {
    return ErrnoStatus(error.value(), absl::StrCat("resolve ", path));
  }
  return absolute.string();
}

absl::StatusOr<migration::Address> AbsoluteAddress(migration::Address address) {
  if (address.kind == migration::Address::Kind::kUnix) {
    FERRITE_ASSIGN_OR_RETURN(address.path, AbsolutePath(address.path));
  }
  return migration::ParseAddress(address.ToString());
}

}  // namespace ferrite
