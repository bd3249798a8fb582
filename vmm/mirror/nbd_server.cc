#include "vmm/mirror/nbd_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite {

Fd ListenAtPath(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  FERRITE_CHECK(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.data(), path.size());
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  FERRITE_CHECK(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  FERRITE_CHECK(listen(socket.get(), 8) == 0);
  return socket;
}

absl::StatusOr<NbdServer> NbdServer::Start(const ShortDirectory& directory, std::vector<std::string> arguments) {
  static std::atomic<int> number = 0;
  const std::string path = directory / absl::StrCat("nbd", number++);
  return StartOn(ListenAtPath(path), path, std::move(arguments));
}

absl::StatusOr<NbdServer> NbdServer::StartOn(Fd socket, std::string address, std::vector<std::string> arguments) {
  ChildProcess::Options options;
  options.error = STDERR_FILENO;
  options.in_child = [fd = socket.get()] {
    constexpr int kFirst = 3;  // SD_LISTEN_FDS_START
    if (fd == kFirst) {
      fcntl(fd, F_SETFD, 0);
    } else {
      dup2(fd, kFirst);
    }
    setenv("LISTEN_FDS", "1", 1);
    setenv("LISTEN_PID", absl::StrCat(getpid()).c_str(), 1);
  };
  FERRITE_ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start(arguments, options));
  return NbdServer(std::move(address), std::move(process));
}

absl::StatusOr<NbdServer> NbdServer::Nbdkit(const ShortDirectory& directory, std::vector<std::string> arguments) {
  std::vector<std::string> all = {"/usr/bin/nbdkit", "-f", "--exit-with-parent"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return Start(directory, std::move(all));
}

absl::StatusOr<NbdServer> NbdServer::Qemu(const ShortDirectory& directory, const std::string& image,
                                          std::vector<std::string> arguments) {
  std::vector<std::string> all = {"/usr/bin/qemu-nbd", "-t", "-f", "raw", "-e", "4"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  all.push_back(image);
  return Start(directory, std::move(all));
}

}  // namespace ferrite
