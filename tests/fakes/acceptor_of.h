// What a destination under test listens with.
#ifndef FERRITE_TESTS_FAKES_ACCEPTOR_OF_H_
#define FERRITE_TESTS_FAKES_ACCEPTOR_OF_H_

#include <memory>
#include <utility>

#include "base/status.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/socket/socket_rendezvous.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {

// Takes the connections to `listener`, which may be null. `host` is the destination's.
inline std::unique_ptr<SocketAcceptor> AcceptorOf(std::unique_ptr<Listener> listener,
                                                  SocketAcceptor::Options options = {}, const Host& host = AnyHost()) {
  auto acceptor = SocketAcceptor::Create(std::move(listener), std::move(options), host);
  FERRITE_CHECK(acceptor.ok());
  return *std::move(acceptor);
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_ACCEPTOR_OF_H_
