#include "base/unix_socket.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {
namespace {

absl::StatusOr<sockaddr_un> SocketAddress(absl::string_view path) {
  FERRITE_RETURN_IF_ERROR(CheckSocketPath(path));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

absl::Status CheckSocketPath(absl::string_view path) {
  constexpr size_t kLimit = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLimit) {
    return absl::InvalidArgumentError(absl::StrCat("socket path ", path, " is ", path.size(),
                                                   " bytes long, the limit is ", kLimit,
                                                   "; choose a shorter directory or name"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> ConnectToUnixSocket(const std::string& path) {
  FERRITE_ASSIGN_OR_RETURN(const sockaddr_un address, SocketAddress(path));
  Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return ErrnoStatus("make a unix socket");
  }
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ConnectStatus(errno, absl::StrCat("connect to ", path));
  }
  return fd;
}

}  // namespace ferrite
