#include "vmm/control/from_monitor.h"

#include <kj/debug.h>
#include <sys/socket.h>

#include "proto/control.capnp.h"

namespace ferrite {
namespace {

// A machine's description, which is the longest message, has a command line and the paths of some files.
constexpr size_t kMaxMessageBytes = 256 << 10;

}  // namespace

capnp::ReaderOptions LimitsOfMonitor() {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = kMaxMessageBytes / sizeof(capnp::word);
  options.nestingLimit = 16;
  return options;
}

void CheckFromMonitor(capnp::rpc::Message::Reader message) {
  switch (message.which()) {
    case capnp::rpc::Message::ABORT:
    case capnp::rpc::Message::RETURN:
    case capnp::rpc::Message::FINISH:
    case capnp::rpc::Message::RELEASE:
      return;
    case capnp::rpc::Message::CALL:
      KJ_REQUIRE(message.getCall().getInterfaceId() == capnp::typeId<control::EventSink>() &&
                     message.getCall().getTarget().isImportedCap(),
                 "a call to what is no event sink");
      return;
    default:
      KJ_FAIL_REQUIRE("a message of a kind that none sends");
  }
}

bool IsStreamSocket(int fd) {
  int type = 0;
  int domain = 0;
  socklen_t size = sizeof(type);
  return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
         getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_UNIX;
}

pid_t ListenerOf(int fd) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

}  // namespace ferrite
