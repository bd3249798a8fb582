// Waiting for one connection, on the thread of a test.
#ifndef FERRITE_TESTS_FAKES_ACCEPTING_H_
#define FERRITE_TESTS_FAKES_ACCEPTING_H_

#include <poll.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/poll.h"
#include "migration/channel/socket/socket.h"

namespace ferrite::migration {

// Waits for a connection to `listener`; otherwise as AcceptNow(). CANCELLED as soon as `cancel` is signalled.
inline absl::StatusOr<std::unique_ptr<SocketStream>> Accept(Listener& listener, const EventFd& cancel) {
  while (true) {
    pollfd polled[2] = {{.fd = cancel.fd(), .events = POLLIN, .revents = 0},
                        {.fd = listener.fd(), .events = POLLIN, .revents = 0}};
    (void)PollFor(polled, absl::InfiniteDuration());
    if (polled[0].revents != 0) {
      return absl::CancelledError(absl::StrCat("accept on ", listener.address().ToString(), ": cancelled"));
    }
    if (polled[1].revents != 0) {
      auto stream = listener.AcceptNow();
      if (!stream.ok() || *stream != nullptr) {
        return stream;
      }
    }
  }
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_ACCEPTING_H_
