// Who a side of a move is over TLS, and whom it believes.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_CREDENTIALS_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_CREDENTIALS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "migration/api/tls_options.h"
#include "migration/channel/tls/tls_files.h"

struct ssl_ctx_st;
struct ssl_st;

namespace ferrite::migration {

enum class TlsSide { kSource, kDestination };

// What OpenSSL needs for it: TLS 1.3 alone, without resumption, both sides with a certificate of a CA that is believed,
// or a key. Made of files that are read once. Threads: any.
class TlsCredentials {
 public:
  // INVALID_ARGUMENT when `options` say both or nothing.
  static absl::Status CheckOptions(const TlsOptions& options);
  // Errors as CheckOptions(). Else one line that names the file: NOT_FOUND,
  // PERMISSION_DENIED and the like as open(2) has them; FAILED_PRECONDITION for one that others can read or write,
  // that has no certificate or key, or a passphrase; for a certificate that is expired, not valid yet, not of the CA,
  // not for this side, and a key that is not the certificate's.
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Load(const TlsOptions& options, TlsSide side);
  // From `files`, which is of `options`.
  static absl::StatusOr<std::unique_ptr<TlsCredentials>> Load(const TlsFiles& files, const TlsOptions& options,
                                                              TlsSide side);
  // Of all that Load() reads.
  static absl::StatusOr<std::vector<TlsFileMark>> Marks(const TlsFiles& files, const TlsOptions& options, TlsSide side);
  ~TlsCredentials();
  TlsCredentials(const TlsCredentials&) = delete;
  TlsCredentials& operator=(const TlsCredentials&) = delete;

  TlsSide side() const { return side_; }
  bool has_certificate() const { return keys_.empty(); }
  // A connection of this side's, which asks for `hostname` in the other one's certificate. The caller frees it, before
  // the credentials go.
  absl::StatusOr<ssl_st*> NewConnection(const std::string& hostname) const;
  const std::vector<PreSharedKey>& keys() const { return keys_; }

 private:
  explicit TlsCredentials(TlsSide side) : side_(side) {}
  absl::Status Open();
  absl::Status LoadCertificates(const TlsFiles& files);
  absl::Status LoadKeys(const TlsFiles& files, const std::string& name);

  const TlsSide side_;
  ssl_ctx_st* context_ = nullptr;
  std::vector<PreSharedKey> keys_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_CREDENTIALS_H_
