// Unix sockets whose files are made, found and removed through a descriptor of their directory: whoever may rename the
// directory, or something on the way to it, cannot have us use, or remove, the file of another.
#ifndef FERRITE_BASE_SOCKET_FILE_H_
#define FERRITE_BASE_SOCKET_FILE_H_

#include <sys/types.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/fd.h"

namespace ferrite {

// A listening socket `name` in `directory`, mode 0600, close-on-exec, non-blocking. ALREADY_EXISTS when something has
// the name. procfs has to be mounted, because a socket's address is a path.
absl::StatusOr<Fd> ListenAt(const Fd& directory, const std::string& name);

// A socket connected to `name` in `directory`, close-on-exec, blocking. No symbolic link is followed, and the socket's
// file has to be of the directory's owner. DEADLINE_EXCEEDED when so many wait there to be accepted that there is no
// place for one more within `patience`.
absl::StatusOr<Fd> ConnectAt(const Fd& directory, const std::string& name, absl::Duration patience);

// The file of a listening socket; removed with the object, unless another one has its name by then.
class SocketFile {
 public:
  SocketFile() = default;  // of no socket
  SocketFile(SocketFile&& other) noexcept = default;
  SocketFile& operator=(SocketFile&& other) noexcept;
  ~SocketFile() { Remove(); }

 private:
  friend absl::StatusOr<std::pair<Fd, SocketFile>> ListenOnPath(const std::string& path);
  SocketFile(Fd directory, std::string name, dev_t device, ino_t inode)
      : directory_(std::move(directory)), name_(std::move(name)), device_(device), inode_(inode) {}
  void Remove();

  Fd directory_;
  std::string name_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

// A listening socket at `path`, as ListenAt(). One there that nobody listens on any more is removed first; it is never
// waited for. INVALID_ARGUMENT when the path is too long for those who connect.
absl::StatusOr<std::pair<Fd, SocketFile>> ListenOnPath(const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_BASE_SOCKET_FILE_H_
