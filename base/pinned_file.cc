#include "base/pinned_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"

namespace ferrite {
namespace {

constexpr int kPin = O_PATH | O_CLOEXEC;

Fd OpenAt2(int directory, const std::string& path, uint64_t resolve) {
  open_how how = {};
  how.flags = kPin;
  how.resolve = resolve;
  return Fd(static_cast<int>(syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how))));
}

}  // namespace

std::string PinnedFile::PathNow() const {
  struct stat own = {};
  if (fstat(fd_.get(), &own) != 0) {
    return "";
  }
  const auto leads_here = [&own](const std::string& path) {
    struct stat found = {};
    if (stat(path.c_str(), &found) != 0) {
      return false;
    }
    // A block device is the one of its number, whatever node stands for it.
    return (found.st_dev == own.st_dev && found.st_ino == own.st_ino) ||
           (S_ISBLK(found.st_mode) && S_ISBLK(own.st_mode) && found.st_rdev == own.st_rdev);
  };
  if (leads_here(path_)) {
    return path_;
  }
  std::string name(PATH_MAX, '\0');
  const ssize_t length = readlink(Link().c_str(), name.data(), name.size());
  if (length < 0) {
    return "";
  }
  name.resize(static_cast<size_t>(length));
  // Of one that was removed the kernel says "NAME (deleted)".
  return leads_here(name) ? name : "";
}

absl::StatusOr<PinnedFile> PinnedFile::Find(std::string path, Links links) {
  Fd fd;
  if (links == Links::kOwn) {
    FERRITE_ASSIGN_OR_RETURN(fd, FindFile(path));
  } else {
    fd = Fd(open(path.c_str(), kPin));
    if (!fd.valid()) {
      return ErrnoStatus(path);
    }
  }
  return PinnedFile(std::move(path), std::move(fd));
}

absl::StatusOr<PinnedFile> PinnedFile::FindBelow(int directory, const std::string& below, std::string path) {
  Fd fd = OpenAt2(directory, below, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
  if (!fd.valid()) {
    if (errno == ELOOP) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": there is a link in its path, and none is followed"));
    }
    if (errno == EXDEV || errno == EAGAIN) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": it leads out of the directory"));
    }
    return ErrnoStatus(path);
  }
  return PinnedFile(std::move(path), std::move(fd));
}

// By the kernel's link to what the descriptor stands for: that is no name that somebody could change.
std::string PinnedFile::Link() const { return DescriptorPath(fd_.get()); }

// O_NONBLOCK: somebody else's lease (fcntl(2), F_SETLEASE) would keep us waiting for 45 s.
Fd PinnedFile::Open(int flags) const { return Fd(open(Link().c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)); }

int PinnedFile::Access(int mode) const { return faccessat(AT_FDCWD, Link().c_str(), mode, AT_EACCESS); }

}  // namespace ferrite
