#include "vmm/mirror/same_disk.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

bool AreOneFile(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// The kernel's directory of a block device: that of a partition is in the disk's. Empty where there is none.
fs::path DirectoryOf(const struct stat& device) {
  std::error_code error;
  fs::path path =
      fs::canonical(absl::StrCat("/sys/dev/block/", major(device.st_rdev), ":", minor(device.st_rdev)), error);
  return error ? fs::path() : path;
}

// Whether `device` is a loop device (or a partition of one) over `file`.
bool IsLoopOver(const struct stat& device, const struct stat& file) {
  const fs::path directory = DirectoryOf(device);
  if (directory.empty()) {
    return false;
  }
  for (const fs::path& disk : {directory, directory.parent_path()}) {
    std::ifstream in(disk / "loop" / "backing_file");
    std::string path;
    struct stat backing = {};
    if (std::getline(in, path) && stat(path.c_str(), &backing) == 0 &&
        (AreOneFile(backing, file) ||
         (S_ISBLK(backing.st_mode) && S_ISBLK(file.st_mode) && backing.st_rdev == file.st_rdev))) {
      return true;
    }
  }
  return false;
}

bool IsIn(const fs::path& partition, const fs::path& disk) {
  return !disk.empty() && absl::StartsWith(partition.string(), absl::StrCat(disk.string(), "/"));
}

}  // namespace

bool MayBeSameDisk(int a, int b) {
  struct stat one = {};
  struct stat other = {};
  if (fstat(a, &one) != 0 || fstat(b, &other) != 0) {
    return false;
  }
  if (AreOneFile(one, other)) {
    return true;
  }
  if (S_ISBLK(one.st_mode) && S_ISBLK(other.st_mode)) {
    const fs::path directory = DirectoryOf(one);
    const fs::path other_directory = DirectoryOf(other);
    if (one.st_rdev == other.st_rdev || IsIn(directory, other_directory) || IsIn(other_directory, directory)) {
      return true;
    }
  }
  return (S_ISBLK(one.st_mode) && IsLoopOver(one, other)) || (S_ISBLK(other.st_mode) && IsLoopOver(other, one));
}

}  // namespace ferrite
