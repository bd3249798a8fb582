#include "vmm/base/pinned_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/base/status.h"

namespace ferrite {
namespace {

constexpr int kPin = O_PATH | O_CLOEXEC;
// The kernel's own limit.
constexpr int kMaxLinks = 40;

Fd OpenAt2(int directory, const std::string& path, uint64_t resolve) {
  open_how how = {};
  how.flags = kPin;
  how.resolve = resolve;
  return Fd(static_cast<int>(syscall(SYS_openat2, directory, path.c_str(), &how, sizeof(how))));
}

// Takes the first name from `rest`; "" when there is none left.
std::string TakeName(std::string& rest) {
  const size_t start = rest.find_first_not_of('/');
  if (start == std::string::npos) {
    rest.clear();
    return "";
  }
  const size_t end = std::min(rest.find('/', start), rest.size());
  std::string name = rest.substr(start, end - start);
  rest.erase(0, end);
  return name;
}

absl::StatusOr<std::string> ReadLink(const Fd& link, const std::string& path) {
  std::string target(PATH_MAX, '\0');
  const ssize_t length = readlinkat(link.get(), "", target.data(), target.size());
  if (length < 0) {
    return ErrnoStatus(path);
  }
  target.resize(static_cast<size_t>(length));
  return target;
}

// Name by name where there are links, so that each is looked at before it is followed.
absl::StatusOr<Fd> WalkOwnLinks(const std::string& path) {
  if (Fd without_links = OpenAt2(AT_FDCWD, path, RESOLVE_NO_SYMLINKS); without_links.valid()) {
    return without_links;
  }
  std::string rest = path;
  Fd place(open(path.empty() || path[0] != '/' ? "." : "/", kPin | O_DIRECTORY));
  if (!place.valid() || path.empty()) {
    return ErrnoStatus(path.empty() ? ENOENT : errno, path);
  }
  int links = 0;
  while (true) {
    const std::string name = TakeName(rest);
    if (name.empty()) {
      return place;
    }
    Fd next(openat(place.get(), name.c_str(), kPin | O_NOFOLLOW));
    struct stat info = {};
    if (!next.valid() || fstat(next.get(), &info) != 0) {
      return ErrnoStatus(path);
    }
    if (!S_ISLNK(info.st_mode)) {
      place = std::move(next);
      continue;
    }
    if (!IsOwnLink(info, geteuid())) {
      return absl::FailedPreconditionError(absl::StrCat(path, ": ", name, " is a link that the user ", info.st_uid,
                                                        " made, and is not followed; name what it is to be"));
    }
    if (++links > kMaxLinks) {
      return ErrnoStatus(ELOOP, path);
    }
    FERRITE_ASSIGN_OR_RETURN(const std::string target, ReadLink(next, path));
    rest = absl::StrCat(target, "/", rest);
    if (target[0] == '/') {
      place = Fd(open("/", kPin | O_DIRECTORY));
    }
  }
}

}  // namespace

bool IsOwnLink(const struct stat& link, uid_t user) { return link.st_uid == 0 || link.st_uid == user; }

absl::StatusOr<PinnedFile> PinnedFile::Find(std::string path, Links links) {
  Fd fd;
  if (links == Links::kOwn) {
    FERRITE_ASSIGN_OR_RETURN(fd, WalkOwnLinks(path));
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
std::string PinnedFile::Link() const { return absl::StrCat("/proc/self/fd/", fd_.get()); }

// O_NONBLOCK: somebody else's lease (fcntl(2), F_SETLEASE) would keep us waiting for 45 s.
Fd PinnedFile::Open(int flags) const { return Fd(open(Link().c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)); }

int PinnedFile::Access(int mode) const { return faccessat(AT_FDCWD, Link().c_str(), mode, AT_EACCESS); }

}  // namespace ferrite
