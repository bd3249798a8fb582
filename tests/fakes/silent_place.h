// Places to connect to: one that answers nothing, and one that listens.
#ifndef FERRITE_TESTS_FAKES_SILENT_PLACE_H_
#define FERRITE_TESTS_FAKES_SILENT_PLACE_H_

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <vector>

#include "base/fd.h"
#include "migration/channel/socket/socket.h"

namespace ferrite::migration {

// A place that takes no connection and refuses none: a listener whose queue is full.
class SilentPlace {
 public:
  SilentPlace() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    auto* in = reinterpret_cast<sockaddr_in*>(&endpoint_.storage);
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    endpoint_.length = sizeof(*in);
    EXPECT_EQ(bind(listener_.get(), endpoint_.get(), endpoint_.length), 0);
    EXPECT_EQ(listen(listener_.get(), 0), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&endpoint_.storage), &endpoint_.length), 0);
    // Until one of them is not answered.
    pollfd polled{};
    do {
      queued_.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      (void)connect(queued_.back().get(), endpoint_.get(), endpoint_.length);
      polled = {.fd = queued_.back().get(), .events = POLLOUT, .revents = 0};
    } while (poll(&polled, 1, 50) == 1 && queued_.size() < 8);
  }
  const Endpoint& endpoint() const { return endpoint_; }

 private:
  Endpoint endpoint_;
  Fd listener_;
  std::vector<Fd> queued_;
};

// Where `listener` listens.
inline Endpoint PlaceOf(const Listener& listener) {
  Endpoint endpoint;
  endpoint.length = sizeof(endpoint.storage);
  EXPECT_EQ(getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&endpoint.storage), &endpoint.length), 0);
  return endpoint;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_SILENT_PLACE_H_
