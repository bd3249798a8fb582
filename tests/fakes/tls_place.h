// Certificates and keys of tests: a CA of its own, what it signs, and the directory that both sides read.
#ifndef FERRITE_TESTS_FAKES_TLS_PLACE_H_
#define FERRITE_TESTS_FAKES_TLS_PLACE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "migration/channel/socket/stream_security.h"
#include "migration/channel/tls/tls_credentials.h"

namespace ferrite::migration {

// What is in a certificate.
struct TestCertificate {
  std::string name = "localhost";
  std::vector<std::string> alternatives = {"DNS:localhost", "IP:127.0.0.1"};
  absl::Duration begins = -absl::Hours(1);  // from now
  absl::Duration ends = absl::Hours(24);
  bool self_signed = false;
  std::string usage;  // "serverAuth"; empty: any
};

// A failure of the set-up ends the process.
class TestCa {
 public:
  explicit TestCa(const std::string& name = "ferrite tests");
  ~TestCa();

  // DIRECTORY/ca-cert.pem.
  void WriteCertificate(const std::string& directory) const;
  // DIRECTORY/WHOSE-cert.pem, and WHOSE-key.pem, mode 0600.
  void Issue(const std::string& directory, const std::string& whose, const TestCertificate& certificate = {}) const;

 private:
  struct Inside;
  const std::unique_ptr<Inside> inside_;
};

// A directory with all files of both sides, which goes with it.
class TlsPlace {
 public:
  TlsPlace();
  ~TlsPlace();

  const std::string& directory() const { return directory_; }
  const TestCa& ca() const { return ca_; }
  TlsOptions options() const { return {.directory = directory_, .psk_file = "", .hostname = "localhost"}; }
  // A file in it.
  std::string Write(const std::string& name, const std::string& text, int mode = 0600) const;
  std::shared_ptr<StreamSecurity> source() const;
  std::shared_ptr<StreamSecurity> destination() const;

 private:
  const std::string directory_;
  const TestCa ca_;
};

// Of `options`, or the end of the process.
std::shared_ptr<StreamSecurity> SecurityOf(const TlsOptions& options, TlsSide side);

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_TLS_PLACE_H_
