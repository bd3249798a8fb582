// Real NBD servers, for tests.
#ifndef FERRITE_VMM_MIRROR_NBD_SERVER_H_
#define FERRITE_VMM_MIRROR_NBD_SERVER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/fd.h"
#include "tests/fakes/child_process.h"
#include "tests/fakes/short_directory.h"

namespace ferrite {

// A server on a unix socket that was made before it starts (LISTEN_FDS of sd_listen_fds(3)), so that nobody waits for
// it. Killed with its owner.
class NbdServer {
 public:
  // nbdkit(1) or qemu-nbd(8), as arguments[0] says, which is its path.
  static absl::StatusOr<NbdServer> Start(const ShortDirectory& directory, std::vector<std::string> arguments);
  // On the listening socket that is handed in, of which `address` is for people.
  static absl::StatusOr<NbdServer> StartOn(Fd socket, std::string address, std::vector<std::string> arguments);
  // nbdkit(1) with `arguments`, in the foreground.
  static absl::StatusOr<NbdServer> Nbdkit(const ShortDirectory& directory, std::vector<std::string> arguments);
  // qemu-nbd(8) of the raw image at `image`, for many connections.
  static absl::StatusOr<NbdServer> Qemu(const ShortDirectory& directory, const std::string& image,
                                        std::vector<std::string> arguments = {});

  const std::string& socket() const { return socket_; }
  std::string where() const { return "nbd:unix:" + socket_; }
  const ChildProcess& process() const { return process_; }
  ChildProcess& process() { return process_; }

 private:
  NbdServer(std::string socket, ChildProcess process) : socket_(std::move(socket)), process_(std::move(process)) {}

  std::string socket_;
  ChildProcess process_;
};

// A listening unix socket at `path`.
Fd ListenAtPath(const std::string& path);

}  // namespace ferrite

#endif  // FERRITE_VMM_MIRROR_NBD_SERVER_H_
