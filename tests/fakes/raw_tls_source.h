// A source of a move as somebody else's TLS would make it, with the right certificate: what it says is in its hands.
#ifndef FERRITE_TESTS_FAKES_RAW_TLS_SOURCE_H_
#define FERRITE_TESTS_FAKES_RAW_TLS_SOURCE_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/tls/tls_connection.h"
#include "migration/channel/tls/tls_credentials.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {

// A failure of the set-up ends the process. Threads: one at a time.
class RawTlsSource {
 public:
  // The handshake is over when it returns: the other side's is another thread's.
  RawTlsSource(const TlsPlace& place, std::unique_ptr<SocketStream> socket);
  ~RawTlsSource();

  // Records that are sent by nobody yet: so many KeyUpdates (RFC 8446, 4.6.3), and one of data.
  std::string KeyUpdates(int count);
  std::string Data(absl::string_view words);

  // As a socket's stream, in which records go.
  SocketStream& socket() { return *socket_; }

 private:
  // What was written since the last one.
  std::string Taken();

  const std::unique_ptr<SocketStream> socket_;
  const std::unique_ptr<TlsCredentials> credentials_;
  const SslPtr ssl_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_RAW_TLS_SOURCE_H_
