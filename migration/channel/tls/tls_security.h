// TLS around the connections of a move.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/channel/tls/tls_credentials.h"

namespace ferrite::migration {

// What was agreed on, for people.
struct TlsFacts {
  std::string peer;          // "tcp:192.0.2.7:41234"
  std::string name;          // the other side's: its certificate's subject, or the key's identity
  std::string cipher;        // "TLS_AES_128_GCM_SHA256"
  bool kernel_send = false;  // the kernel does it (kTLS)
  bool kernel_receive = false;
};

// "CN=source over TLS 1.3, TLS_AES_128_GCM_SHA256, without kTLS"
std::string DescribeTls(const TlsFacts& facts);
// For TlsSecurity: `tell` hears that of the first connection, and of each that differs in it from the one before.
std::function<void(const TlsFacts&)> OnEachNewTls(std::function<void(const std::string& words)> tell);

// A handshake that fails says why in one line to the other end (an alert), and to its caller. Threads: as
// StreamSecurity; `on_secured` is called on those of who steps.
class TlsSecurity final : public StreamSecurity {
 public:
  using OnSecured = std::function<void(const TlsFacts& facts)>;

  // The files are read here, and not again. Of the source: `address` is where it goes; with certificates and without
  // TlsOptions::hostname, the destination's has to have its host's name. INVALID_ARGUMENT for a unix address then.
  // Errors else as TlsCredentials::Load().
  static absl::StatusOr<std::shared_ptr<TlsSecurity>> Create(const TlsOptions& options, TlsSide side,
                                                             const Address& address, OnSecured on_secured = nullptr);

  absl::StatusOr<std::unique_ptr<Handshake>> Start(std::unique_ptr<SocketStream> socket) override;

 private:
  friend class TlsHandshake;
  // Shared with the handshakes, which may outlive the security.
  TlsSecurity(std::shared_ptr<const TlsCredentials> credentials, std::string hostname, OnSecured on_secured)
      : credentials_(std::move(credentials)), hostname_(std::move(hostname)), on_secured_(std::move(on_secured)) {}

  const std::shared_ptr<const TlsCredentials> credentials_;
  const std::string hostname_;
  const OnSecured on_secured_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_
