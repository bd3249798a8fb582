// Where it comes from who a side of a move is over TLS, and whom it believes (docs/security.md).
#ifndef FERRITE_MIGRATION_API_TLS_OPTIONS_H_
#define FERRITE_MIGRATION_API_TLS_OPTIONS_H_

#include <string>

namespace ferrite::migration {

// A directory, or a file of keys that both sides have. Of a side, and not of the move: each has its own.
struct TlsOptions {
  // With ca-cert.pem (whose certificates are believed) and, of the destination, server-cert.pem and server-key.pem, of
  // the source client-cert.pem and client-key.pem: as QEMU has them (its "endpoint=server" and "endpoint=client").
  std::string directory;
  // In place of those: lines of IDENTITY:HEX. The source uses the first key, the destination knows all.
  std::string psk_file;
  // That the destination's certificate has to have: the source's affair.
  std::string hostname;

  bool on() const { return !directory.empty() || !psk_file.empty(); }
  bool operator==(const TlsOptions&) const = default;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_TLS_OPTIONS_H_
