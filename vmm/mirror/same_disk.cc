#include "vmm/mirror/same_disk.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;

constexpr char kSysfs[] = "/sys";

bool AreOneFile(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

// The kernel's directory of a block device: that of a partition is in the disk's. Empty where there is none.
fs::path DirectoryOf(const std::string& sysfs, dev_t device) {
  std::error_code error;
  fs::path path = fs::canonical(absl::StrCat(sysfs, "/dev/block/", major(device), ":", minor(device)), error);
  return error ? fs::path() : path;
}

bool IsIn(const fs::path& partition, const fs::path& disk) {
  return absl::StartsWith(partition.string(), absl::StrCat(disk.string(), "/"));
}

// What a block device is made of, itself first.
struct Parts {
  std::vector<fs::path> devices;     // their directories
  std::vector<struct stat> backing;  // files of loop devices

  void Add(const fs::path& device) {
    if (!device.empty() && std::find(devices.begin(), devices.end(), device) == devices.end()) {
      devices.push_back(device);
    }
  }
};

void AddSlaves(const fs::path& device, Parts& parts) {
  std::error_code error;
  fs::directory_iterator slave(device / "slaves", error);
  while (!error && slave != fs::directory_iterator()) {
    std::error_code gone;
    const fs::path path = fs::canonical(slave->path(), gone);
    if (!gone) {
      parts.Add(path);
    }
    slave.increment(error);
  }
}

void AddBacking(const std::string& sysfs, const fs::path& device, Parts& parts) {
  std::ifstream in(device / "loop" / "backing_file");
  std::string path;
  struct stat backing = {};
  if (!std::getline(in, path) || stat(path.c_str(), &backing) != 0) {
    return;
  }
  if (S_ISBLK(backing.st_mode)) {
    parts.Add(DirectoryOf(sysfs, backing.st_rdev));
  } else {
    parts.backing.push_back(backing);
  }
}

Parts PartsOf(const std::string& sysfs, dev_t device) {
  Parts parts;
  parts.Add(DirectoryOf(sysfs, device));
  for (size_t i = 0; i < parts.devices.size(); ++i) {
    const fs::path own = parts.devices[i];
    // What the disk of a partition is made of is in the disk's directory.
    for (const fs::path& disk : {own, own.parent_path()}) {
      AddSlaves(disk, parts);
      AddBacking(sysfs, disk, parts);
    }
  }
  return parts;
}

bool AreMadeOf(const Parts& parts, const fs::path& device) {
  return !device.empty() && std::any_of(parts.devices.begin(), parts.devices.end(), [&](const fs::path& part) {
    return part == device || IsIn(part, device) || IsIn(device, part);
  });
}

bool IsOverFile(const struct stat& device, const struct stat& file) {
  const Parts parts = PartsOf(kSysfs, device.st_rdev);
  return std::any_of(parts.backing.begin(), parts.backing.end(),
                     [&](const struct stat& backing) { return AreOneFile(backing, file); });
}

}  // namespace

bool MayBeSameDevice(const std::string& sysfs, dev_t a, dev_t b) {
  return a == b || AreMadeOf(PartsOf(sysfs, a), DirectoryOf(sysfs, b)) ||
         AreMadeOf(PartsOf(sysfs, b), DirectoryOf(sysfs, a));
}

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
    return MayBeSameDevice(kSysfs, one.st_rdev, other.st_rdev);
  }
  return (S_ISBLK(one.st_mode) && IsOverFile(one, other)) || (S_ISBLK(other.st_mode) && IsOverFile(other, one));
}

}  // namespace ferrite
