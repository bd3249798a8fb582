// TLS around the connections of a move.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "migration/api/host.h"
#include "migration/api/tls_options.h"
#include "migration/channel/socket/address.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/channel/tls/tls_credentials.h"
#include "migration/channel/tls/tls_files.h"

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
// For TlsSecurity: `tell` hears that of the first connection, and of each that differs in it from the one before, with
// its peer; as many at once and later as DropLog writes, since strangers may have certificates (R11). `host` outlives
// it.
std::function<void(const TlsFacts&)> OnEachNewTls(const Host& host, std::function<void(const std::string& words)> tell);

// A handshake that fails says why in one line to the other end (an alert), and to its caller. A destination, which may
// wait for longer than a certificate lasts, looks before each handshake whether its files are others now, and reads
// them again then; where they are not in order, or not all there yet, it stays with those that it has. Threads: as
// StreamSecurity; `on_secured` is called on those of who steps, `on_reload` on those of who starts.
class TlsSecurity final : public StreamSecurity {
 public:
  using OnSecured = std::function<void(const TlsFacts& facts)>;
  // Once for each change of the files: OK when they are used from here on.
  using OnReload = std::function<void(const absl::Status& result)>;

  // Of the source, which reads its files here alone: `address` is where it goes; with certificates and without
  // TlsOptions::hostname, the destination's has to have its host's name. INVALID_ARGUMENT for a unix address then.
  // Errors else as TlsCredentials::Load().
  static absl::StatusOr<std::shared_ptr<TlsSecurity>> Create(const TlsOptions& options, TlsSide side,
                                                             const Address& address, OnSecured on_secured = nullptr,
                                                             OnReload on_reload = nullptr);

  absl::StatusOr<std::unique_ptr<Handshake>> Start(std::unique_ptr<SocketStream> socket) override;

 private:
  friend class TlsHandshake;
  TlsSecurity(TlsFiles files, TlsOptions options, TlsSide side, std::vector<TlsFileMark> marks,
              std::shared_ptr<const TlsCredentials> credentials, OnSecured on_secured, OnReload on_reload)
      : files_(std::move(files)),
        options_(std::move(options)),
        side_(side),
        on_secured_(std::move(on_secured)),
        on_reload_(std::move(on_reload)),
        marks_(std::move(marks)),
        credentials_(std::move(credentials)) {}

  // Those of the files as they are now.
  std::shared_ptr<const TlsCredentials> Newest();

  const TlsFiles files_;
  const TlsOptions options_;
  const TlsSide side_;
  const OnSecured on_secured_;
  const OnReload on_reload_;
  absl::Mutex mutex_;
  std::vector<TlsFileMark> marks_ ABSL_GUARDED_BY(mutex_);  // of when the files were looked at last
  // Shared with the handshakes, which may outlive the security.
  std::shared_ptr<const TlsCredentials> credentials_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_SECURITY_H_
