// Two ends of a TLS connection in one thread.
#ifndef FERRITE_TESTS_FAKES_TLS_PAIR_H_
#define FERRITE_TESTS_FAKES_TLS_PAIR_H_

#include <poll.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream.h"
#include "migration/channel/socket/stream_security.h"

namespace ferrite::migration {

struct TlsPair {
  absl::StatusOr<std::unique_ptr<Stream>> source;
  absl::StatusOr<std::unique_ptr<Stream>> destination;
};

// What comes of a handshake over connected sockets; where one side fails its socket is closed, as its owner would.
inline TlsPair ShakeHands(StreamSecurity& source, StreamSecurity& destination,
                          std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>> ends) {
  struct End {
    std::unique_ptr<Handshake> handshake;
    absl::StatusOr<std::unique_ptr<Stream>> stream = nullptr;
    bool Step() {
      if (handshake == nullptr) {
        return false;
      }
      stream = handshake->Step();
      if (!stream.ok() || *stream != nullptr) {
        handshake = nullptr;
      }
      return true;
    }
  };
  End one{.handshake = *source.Start(std::move(ends.first))};
  End two{.handshake = *destination.Start(std::move(ends.second))};
  bool goes_on = true;
  while (goes_on) {
    const bool first = one.Step();
    goes_on = two.Step() || first;
  }
  return {.source = std::move(one.stream), .destination = std::move(two.stream)};
}

inline TlsPair ShakeHands(StreamSecurity& source, StreamSecurity& destination) {
  return ShakeHands(source, destination, *MakeStreamPair());
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_TLS_PAIR_H_
