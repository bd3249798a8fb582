// Unix stream sockets with a path (base/socket_file.h makes them).
#ifndef FERRITE_BASE_UNIX_SOCKET_H_
#define FERRITE_BASE_UNIX_SOCKET_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/fd.h"

namespace ferrite {

// Whether `path` fits into a socket's address (unix(7)); the error names the path and the limit.
absl::Status CheckSocketPath(absl::string_view path);

// A socket connected to `path`, close-on-exec, blocking.
absl::StatusOr<Fd> ConnectToUnixSocket(const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_BASE_UNIX_SOCKET_H_
