#include "base/socket_file.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/directory.h"
#include "base/status.h"
#include "base/unix_socket.h"

namespace ferrite {
namespace {

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  FERRITE_CHECK(path.size() < sizeof(address.sun_path));
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// A socket's address is a path: by way of procfs it is one of the very file, or of a name in the very directory.
sockaddr_un AddressOf(const Fd& file) { return AddressOf(DescriptorPath(file.get())); }

absl::StatusOr<Fd> MakeSocket(int flags) {
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  if (!fd.valid()) {
    return ErrnoStatus("make a unix socket");
  }
  return fd;
}

int Connect(const Fd& socket, const sockaddr_un& address) {
  return connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

Fd OpenName(const Fd& directory, const std::string& name) {
  return Fd(openat(directory.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

// A socket that a killed process left refuses connections. One with a full queue is somebody's.
void RemoveDeadSocket(const Fd& directory, const std::string& name) {
  const Fd file = OpenName(directory, name);
  struct stat info = {};
  if (!file.valid() || fstat(file.get(), &info) != 0 || !S_ISSOCK(info.st_mode)) {
    return;
  }
  const auto probe = MakeSocket(SOCK_NONBLOCK);
  if (probe.ok() && Connect(*probe, AddressOf(file)) != 0 && errno == ECONNREFUSED) {
    (void)unlinkat(directory.get(), name.c_str(), 0);
  }
}

}  // namespace

absl::StatusOr<Fd> ListenAt(const Fd& directory, const std::string& name) {
  const std::string path = absl::StrCat(DescriptorPath(directory.get()), "/", name);
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(path));
  const sockaddr_un address = AddressOf(path);
  FERRITE_ASSIGN_OR_RETURN(Fd fd, MakeSocket(SOCK_NONBLOCK));
  // The mode of a socket's file is the socket's own at bind(): there is no instant at which it is open to others, and
  // the process's umask, which all threads share, stays as it is.
  if (fchmod(fd.get(), 0600) != 0 ||
      bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    const absl::Status status = ErrnoStatus(error, absl::StrCat("make the socket ", PathAt(directory, name)));
    return error == EADDRINUSE ? absl::AlreadyExistsError(status.message()) : status;
  }
  if (listen(fd.get(), SOMAXCONN) != 0) {
    const absl::Status status = ErrnoStatus(absl::StrCat("listen on ", PathAt(directory, name)));
    (void)unlinkat(directory.get(), name.c_str(), 0);
    return status;
  }
  return fd;
}

absl::StatusOr<Fd> ConnectAt(const Fd& directory, const std::string& name, absl::Duration patience) {
  // The file that is looked at is the one that is connected to.
  const Fd file = OpenName(directory, name);
  struct stat info = {};
  struct stat owner = {};
  if (!file.valid() || fstat(file.get(), &info) != 0 || fstat(directory.get(), &owner) != 0) {
    return ErrnoStatus(absl::StrCat("connect to ", PathAt(directory, name)));
  }
  if (!S_ISSOCK(info.st_mode) || info.st_uid != owner.st_uid) {
    return absl::FailedPreconditionError(
        absl::StrCat(PathAt(directory, name), " is not a socket of the owner of its directory"));
  }
  FERRITE_ASSIGN_OR_RETURN(Fd fd, MakeSocket(0));
  const auto set_limit = [&](timeval limit) {
    return setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) == 0;
  };
  // 0 would be no limit.
  if (!set_limit(absl::ToTimeval(std::clamp(patience, absl::Milliseconds(1), absl::Hours(1))))) {
    return ErrnoStatus("limit the time of a connection");
  }
  if (Connect(fd, AddressOf(file)) != 0) {
    const std::string path = PathAt(directory, name);
    return errno == EAGAIN ? absl::DeadlineExceededError(absl::StrCat("connect to ", path, ": nobody accepted within ",
                                                                      absl::FormatDuration(patience)))
                           : ConnectStatus(errno, absl::StrCat("connect to ", path));
  }
  if (!set_limit({})) {
    return ErrnoStatus("limit the time of a connection");
  }
  return fd;
}

SocketFile& SocketFile::operator=(SocketFile&& other) noexcept {
  if (this != &other) {
    Remove();
    directory_ = std::move(other.directory_);
    name_ = std::move(other.name_);
    device_ = other.device_;
    inode_ = other.inode_;
  }
  return *this;
}

void SocketFile::Remove() {
  struct stat info = {};
  if (directory_.valid() && fstatat(directory_.get(), name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
      info.st_dev == device_ && info.st_ino == inode_) {
    (void)unlinkat(directory_.get(), name_.c_str(), 0);
  }
  directory_.Reset();
}

absl::StatusOr<std::pair<Fd, SocketFile>> ListenOnPath(const std::string& path) {
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(path));
  const size_t slash = path.rfind('/');
  const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  // Not by a link of another user's, who would choose where a dead socket is removed.
  auto walked = WalkToDirectory(parent, {.through_anybodys = true});
  FERRITE_RETURN_IF_ERROR(Annotate(walked.status(), absl::StrCat("make the socket ", path)));
  const Fd& directory = *walked;
  RemoveDeadSocket(directory, name);
  FERRITE_ASSIGN_OR_RETURN(Fd fd, ListenAt(directory, name));
  struct stat info = {};
  if (fstatat(directory.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return ErrnoStatus(absl::StrCat("make the socket ", path));
  }
  return std::pair(std::move(fd), SocketFile(*std::move(walked), name, info.st_dev, info.st_ino));
}

}  // namespace ferrite
