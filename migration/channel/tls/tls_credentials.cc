#include "migration/channel/tls/tls_credentials.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "migration/channel/tls/psk_callbacks.h"
#include "migration/channel/tls/tls_errors.h"

namespace ferrite::migration {
namespace {

// That a stranger can have us keep, of certificates.
constexpr long kMostCertificateBytes = 32 << 10;  // NOLINT(google-runtime-int): the library's
constexpr int kMostIntermediates = 4;
// The fastest first: AES-NI is everywhere where KVM is.
constexpr char kCiphers[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

constexpr char kSessions[] = "ferrite move";
constexpr char kCaFile[] = "ca-cert.pem";

std::string CertificateFile(TlsSide side) {
  return side == TlsSide::kDestination ? "server-cert.pem" : "client-cert.pem";
}

std::string KeyFile(TlsSide side) { return side == TlsSide::kDestination ? "server-key.pem" : "client-key.pem"; }

// In its directory.
std::string NameOf(const std::string& path) { return path.substr(path.rfind('/') + 1); }

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  void operator()(X509_STORE_CTX* check) const { X509_STORE_CTX_free(check); }
};
using Certificate = std::unique_ptr<X509, Free>;
using Key = std::unique_ptr<EVP_PKEY, Free>;

absl::Status Wrong(const std::string& path, absl::string_view what) {
  ERR_clear_error();
  return absl::FailedPreconditionError(absl::StrCat(path, " ", what));
}

// Nobody can be asked for a passphrase here. `asked` remembers that it was wanted.
int NoPassphrase(char* /*out*/, int /*size*/, int /*writes*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

absl::Status CheckTime(const std::string& path, const X509* certificate) {
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
    return Wrong(path, "is not valid yet");
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
    return Wrong(path, "is expired");
  }
  return absl::OkStatus();
}

// All certificates of a file; each is valid now.
absl::StatusOr<std::vector<Certificate>> LoadCertificates(const TlsFiles& files, const std::string& name) {
  const std::string path = files.PathOf(name);
  FERRITE_ASSIGN_OR_RETURN(const std::string text, files.Read(name, Secrecy::kPublic));
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) {
    return LibraryError(path);
  }
  std::vector<Certificate> certificates;
  bool asked = false;
  while (X509* const one = PEM_read_bio_X509(bio.get(), nullptr, NoPassphrase, &asked)) {
    certificates.emplace_back(one);
    FERRITE_RETURN_IF_ERROR(CheckTime(path, one));
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (certificates.empty() || !at_end) {
    return Wrong(path, "has no certificate in PEM, or a broken one");
  }
  ERR_clear_error();
  return certificates;
}

absl::StatusOr<Key> LoadKey(const TlsFiles& files, const std::string& name) {
  const std::string path = files.PathOf(name);
  FERRITE_ASSIGN_OR_RETURN(std::string text, files.Read(name, Secrecy::kSecret));
  const absl::Cleanup wipe = [&text] { Wipe(text); };
  const std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (bio == nullptr) {
    return LibraryError(path);
  }
  bool asked = false;
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, &asked));
  if (key == nullptr) {
    return Wrong(path, asked ? "has a passphrase, which nobody can be asked for here" : "has no private key in PEM");
  }
  return key;
}

// Whether the other side, which believes the same CA, can believe `chain`.
absl::Status CheckChain(SSL_CTX* context, const std::string& path, const std::string& ca_path,
                        const std::vector<Certificate>& chain, TlsSide side) {
  const std::unique_ptr<X509_STORE_CTX, Free> check(X509_STORE_CTX_new());
  STACK_OF(X509)* const others = sk_X509_new_null();
  const absl::Cleanup free = [others] { sk_X509_free(others); };
  for (size_t i = 1; i < chain.size(); ++i) {
    (void)sk_X509_push(others, chain[i].get());
  }
  if (check == nullptr || others == nullptr ||
      X509_STORE_CTX_init(check.get(), SSL_CTX_get_cert_store(context), chain[0].get(), others) != 1) {
    return LibraryError(path);
  }
  (void)X509_STORE_CTX_set_default(check.get(), side == TlsSide::kDestination ? "ssl_server" : "ssl_client");
  if (X509_verify_cert(check.get()) == 1) {
    return absl::OkStatus();
  }
  const char* const why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(check.get()));
  return Wrong(path, absl::StrCat("is not to be believed by ", ca_path, ": ", why));
}

}  // namespace

absl::Status TlsCredentials::CheckOptions(const TlsOptions& options) {
  return options.directory.empty() != options.psk_file.empty()
             ? absl::OkStatus()
             : absl::InvalidArgumentError(
                   "TLS: give a directory of certificates or a file of pre-shared keys, one of them");
}

absl::StatusOr<std::unique_ptr<TlsCredentials>> TlsCredentials::Load(const TlsOptions& options, TlsSide side) {
  FERRITE_RETURN_IF_ERROR(CheckOptions(options));
  FERRITE_ASSIGN_OR_RETURN(const TlsFiles files, TlsFiles::Find(options));
  return Load(files, options, side);
}

absl::StatusOr<std::unique_ptr<TlsCredentials>> TlsCredentials::Load(const TlsFiles& files, const TlsOptions& options,
                                                                     TlsSide side) {
  FERRITE_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<TlsCredentials> credentials(new TlsCredentials(side));
  FERRITE_RETURN_IF_ERROR(credentials->Open());
  FERRITE_RETURN_IF_ERROR(options.psk_file.empty() ? credentials->LoadCertificates(files)
                                                   : credentials->LoadKeys(files, NameOf(options.psk_file)));
  return credentials;
}

absl::StatusOr<std::vector<TlsFileMark>> TlsCredentials::Marks(const TlsFiles& files, const TlsOptions& options,
                                                               TlsSide side) {
  std::vector<std::string> names = {NameOf(options.psk_file)};
  if (options.psk_file.empty()) {
    names = {kCaFile, CertificateFile(side), KeyFile(side)};
  }
  std::vector<TlsFileMark> marks;
  for (const std::string& name : names) {
    FERRITE_ASSIGN_OR_RETURN(const TlsFileMark mark, files.Mark(name));
    marks.push_back(mark);
  }
  return marks;
}

TlsCredentials::~TlsCredentials() {
  SSL_CTX_free(context_);
  Wipe(keys_);
}

absl::Status TlsCredentials::Open() {
  // Without the host's configuration file, which may load what it likes, and change what is asked of the other side.
  if (OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr) != 1) {
    return LibraryError("start OpenSSL");
  }
  context_ = SSL_CTX_new(side_ == TlsSide::kDestination ? TLS_server_method() : TLS_client_method());
  if (context_ == nullptr || SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context_, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context_, kCiphers) != 1 || SSL_CTX_set_num_tickets(context_, 0) != 1 ||
      // A pre-shared key is a session, too, which the destination wants to know as its own.
      (side_ == TlsSide::kDestination &&
       SSL_CTX_set_session_id_context(context_, reinterpret_cast<const unsigned char*>(kSessions),
                                      sizeof(kSessions) - 1) != 1)) {
    return LibraryError("prepare TLS");
  }
  // A ticket that nobody reads would have a connection reset that its source closes, and what is on its way lost.
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context_, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                    SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_ENABLE_KTLS);
  // No certificate goes out but those of the file.
  SSL_CTX_set_mode(context_, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_NO_AUTO_CHAIN);
  SSL_CTX_set_max_cert_list(context_, kMostCertificateBytes);
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_verify_depth(context_, kMostIntermediates);
  return absl::OkStatus();
}

absl::Status TlsCredentials::LoadCertificates(const TlsFiles& files) {
  const std::string ca_path = files.PathOf(kCaFile);
  const std::string path = files.PathOf(CertificateFile(side_));
  const std::string key_path = files.PathOf(KeyFile(side_));
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Certificate> believed, migration::LoadCertificates(files, kCaFile));
  for (const Certificate& one : believed) {
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context_), one.get()) != 1) {
      return LibraryError(ca_path);
    }
  }
  FERRITE_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                           migration::LoadCertificates(files, CertificateFile(side_)));
  FERRITE_ASSIGN_OR_RETURN(const Key key, LoadKey(files, KeyFile(side_)));
  if (X509_check_private_key(chain[0].get(), key.get()) != 1) {
    return Wrong(key_path, absl::StrCat("is not the key of ", path));
  }
  FERRITE_RETURN_IF_ERROR(CheckChain(context_, path, ca_path, chain, side_));
  if (SSL_CTX_use_certificate(context_, chain[0].get()) != 1 || SSL_CTX_use_PrivateKey(context_, key.get()) != 1) {
    return LibraryError(path, absl::StatusCode::kFailedPrecondition);
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context_, chain[i].get()) != 1) {
      return LibraryError(path, absl::StatusCode::kFailedPrecondition);
    }
  }
  // The source's certificate may be of each that is believed; their names, which a list would tell, are nobody's
  // affair.
  return absl::OkStatus();
}

absl::Status TlsCredentials::LoadKeys(const TlsFiles& files, const std::string& name) {
  FERRITE_ASSIGN_OR_RETURN(std::string text, files.Read(name, Secrecy::kSecret));
  absl::StatusOr<std::vector<PreSharedKey>> keys = ParsePreSharedKeys(text);
  Wipe(text);
  if (!keys.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(files.PathOf(name), ": ", keys.status().message()));
  }
  keys_ = *std::move(keys);
  UseKeys(context_, keys_, side_);
  return absl::OkStatus();
}

absl::StatusOr<ssl_st*> TlsCredentials::NewConnection(const std::string& hostname) const {
  SSL* const ssl = SSL_new(context_);
  if (ssl == nullptr) {
    return LibraryError("make a TLS connection", absl::StatusCode::kResourceExhausted);
  }
  absl::Cleanup free = [ssl] { SSL_free(ssl); };
  if (side_ == TlsSide::kDestination) {
    SSL_set_accept_state(ssl);
  } else {
    SSL_set_connect_state(ssl);
    if (has_certificate()) {
      X509_VERIFY_PARAM* const wanted = SSL_get0_param(ssl);
      X509_VERIFY_PARAM_set_hostflags(wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
      const bool is_ip = X509_VERIFY_PARAM_set1_ip_asc(wanted, hostname.c_str()) == 1;
      ERR_clear_error();
      if (!is_ip && (X509_VERIFY_PARAM_set1_host(wanted, hostname.c_str(), hostname.size()) != 1 ||
                     SSL_set_tlsext_host_name(ssl, hostname.c_str()) != 1)) {
        return LibraryError(absl::StrCat("the name \"", hostname, "\""), absl::StatusCode::kInvalidArgument);
      }
    }
  }
  std::move(free).Cancel();
  return ssl;
}

}  // namespace ferrite::migration
