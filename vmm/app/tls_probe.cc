#include "vmm/app/tls_probe.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/fd.h"

namespace ferrite {
namespace {

// Asked of a connection over the loopback device: one that is not connected takes none.
int KernelTlsError() {
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* const at = reinterpret_cast<sockaddr*>(&address);
  // A connection that waits to be accepted is one.
  if (!listener.valid() || !client.valid() || bind(listener.get(), at, length) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), at, &length) != 0 || connect(client.get(), at, length) != 0 ||
      setsockopt(client.get(), IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0) {
    return errno;
  }
  return 0;
}

}  // namespace

Finding KernelTlsFinding(int error) {
  Finding finding{.area = "TLS", .name = "in the kernel (kTLS)", .value = "works"};
  if (error != 0) {
    finding.state = FindingState::kLimited;
    finding.value = error == ENOENT ? "not there" : strerror(error);
    finding.cost = "moves with --tls-dir or --tls-psk are encrypted by the monitor, which copies what it sends";
    finding.remedy = "modprobe tls, on a kernel with CONFIG_TLS";
  }
  return finding;
}

std::vector<Finding> ProbeTls() { return {KernelTlsFinding(KernelTlsError())}; }

}  // namespace ferrite
