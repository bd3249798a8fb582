#include "migration/channel/tls/tls_security.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "base/clean_text.h"
#include "base/status.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/tls/psk_callbacks.h"
#include "migration/channel/tls/tls_errors.h"
#include "migration/channel/tls/tls_socket_bio.h"
#include "migration/channel/tls/tls_stream.h"

namespace ferrite::migration {
namespace {

constexpr size_t kMostNameBytes = 200;
// A record of a fatal protocol_version (RFC 8446, 5.1 and 6).
constexpr uint8_t kNoTlsAlert[] = {21, 3, 3, 0, 2, 2, 70};

struct FreeCertificate {
  void operator()(X509* certificate) const { X509_free(certificate); }
};
using Certificate = std::unique_ptr<X509, FreeCertificate>;

absl::StatusOr<std::string> FingerprintOf(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  if (certificate == nullptr || X509_digest(certificate, EVP_sha256(), digest, &length) != 1) {
    return LibraryError("TLS: the fingerprint of a certificate");
  }
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest), length});
}

// RFC 2253, as the other side's words: not longer than is shown.
std::string SubjectOf(const X509* certificate) {
  BIO* const text = BIO_new(BIO_s_mem());
  std::string name;
  if (text != nullptr && X509_NAME_print_ex(text, X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) >= 0) {
    char* bytes = nullptr;
    const long length = BIO_get_mem_data(text, &bytes);  // NOLINT(google-runtime-int): the library's
    name = CleanText(std::string(bytes, static_cast<size_t>(length)).substr(0, kMostNameBytes));
  }
  BIO_free(text);
  ERR_clear_error();
  return name;
}

}  // namespace

std::string DescribeTls(const TlsFacts& facts) {
  return absl::StrCat(facts.name, " over TLS 1.3, ", facts.cipher, ", ",
                      facts.kernel_send && facts.kernel_receive ? "with kTLS"
                      : facts.kernel_send                       ? "with kTLS for what is sent"
                      : facts.kernel_receive                    ? "with kTLS for what is received"
                                                                : "without kTLS");
}

std::function<void(const TlsFacts&)> OnEachNewTls(const Host& host,
                                                  std::function<void(const std::string& words)> tell) {
  struct Told {
    explicit Told(const Host& on) : host(on), most(on) {}

    const Host& host;
    DropLog most;
    absl::Mutex mutex;
    std::string last ABSL_GUARDED_BY(mutex);
  };
  return [tell = std::move(tell), told = std::make_shared<Told>(host)](const TlsFacts& facts) {
    const std::string words = DescribeTls(facts);
    {
      const absl::MutexLock lock(&told->mutex);
      if (words == told->last) {
        return;
      }
      told->last = words;
    }
    if (const std::optional<uint64_t> hidden = told->most.Take(told->host.clock.Now()); hidden.has_value()) {
      tell(absl::StrCat(facts.peer, ", ", words,
                        *hidden > 0 ? absl::StrCat(" (and ", *hidden, " others before)") : std::string()));
    }
  };
}

class TlsHandshake final : public Handshake {
 public:
  TlsHandshake(std::unique_ptr<SocketStream> socket, SslPtr ssl, std::shared_ptr<const TlsCredentials> credentials,
               const TlsSecurity& security)
      : credentials_(std::move(credentials)),
        on_secured_(security.on_secured_),
        hostname_(security.options_.hostname),
        peer_(socket->peer()),
        fd_(socket->fd()),
        socket_(std::move(socket)),
        ssl_(std::move(ssl)) {}

  absl::StatusOr<std::unique_ptr<Stream>> Step() override {
    if (!failure_.ok()) {
      return AwaitEnd();
    }
    ERR_clear_error();
    errno = 0;
    const int result = SSL_do_handshake(ssl_.get());
    const int error = errno;
    if (result != 1) {
      switch (SSL_get_error(ssl_.get(), result)) {
        case SSL_ERROR_WANT_READ:
          events_ = POLLIN;
          return nullptr;
        case SSL_ERROR_WANT_WRITE:
          events_ = POLLOUT;
          return nullptr;
        default:
          const bool is_plain = IsNoTls() && credentials_->side() == TlsSide::kDestination;
          failure_ = absl::UnavailableError(WhyTlsFailed(ssl_.get(), error, /*in_handshake=*/true, hostname_));
          return is_plain ? TellPlain() : failure_;
      }
    }
    TlsFacts facts{.peer = peer_};
    FERRITE_ASSIGN_OR_RETURN(std::string parties, Parties(facts));
    if (on_secured_) {
      facts.cipher = SSL_get_cipher_name(ssl_.get());
      facts.kernel_send = BIO_get_ktls_send(SSL_get_wbio(ssl_.get()));
      facts.kernel_receive = BIO_get_ktls_recv(SSL_get_rbio(ssl_.get()));
      on_secured_(facts);
    }
    return std::make_unique<TlsStream>(std::move(socket_), std::move(ssl_), std::move(parties));
  }
  int fd() const override { return fd_; }
  short events() const override { return events_; }  // NOLINT(google-runtime-int)
  const std::string& peer() const override { return peer_; }

 private:
  // A source in plain takes the alert for what it is. It reads it when it has said what it has to say: were the
  // connection closed before, the kernel would reset it, and a broken one is all that the source would see.
  absl::StatusOr<std::unique_ptr<Stream>> TellPlain() {
    (void)socket_->WriteSome(kNoTlsAlert);
    (void)shutdown(fd_, SHUT_WR);
    return AwaitEnd();
  }
  // A piece a step: who goes on talking has no more time than a handshake.
  absl::StatusOr<std::unique_ptr<Stream>> AwaitEnd() {
    std::array<uint8_t, 4096> unread;
    if (const absl::StatusOr<size_t> n = socket_->ReadSome(unread); !n.ok()) {
      return failure_;
    }
    events_ = POLLIN;
    return nullptr;
  }
  // As whom the two ends know each other. What the library was told to ask for is looked at again.
  absl::StatusOr<std::string> Parties(TlsFacts& facts) const {
    if (!credentials_->has_certificate()) {
      facts.name = IdentityOf(ssl_.get());
      return facts.name.empty()
                 ? absl::StatusOr<std::string>(absl::UnavailableError("it did not prove that it has a pre-shared key"))
                 : absl::StrCat("key:", facts.name);
    }
    const Certificate theirs(SSL_get1_peer_certificate(ssl_.get()));
    if (theirs == nullptr || SSL_get_verify_result(ssl_.get()) != X509_V_OK || SSL_session_reused(ssl_.get()) == 1) {
      return absl::UnavailableError("it has no certificate that is believed");
    }
    facts.name = SubjectOf(theirs.get());
    FERRITE_ASSIGN_OR_RETURN(const std::string their_print, FingerprintOf(theirs.get()));
    FERRITE_ASSIGN_OR_RETURN(const std::string our_print, FingerprintOf(SSL_get_certificate(ssl_.get())));
    const bool is_source = credentials_->side() == TlsSide::kSource;
    return absl::StrCat(is_source ? our_print : their_print, " ", is_source ? their_print : our_print);
  }

  // The connection's are gone before it.
  const std::shared_ptr<const TlsCredentials> credentials_;
  const TlsSecurity::OnSecured on_secured_;
  const std::string hostname_;
  const std::string peer_;
  const int fd_;
  short events_ = POLLIN | POLLOUT;  // NOLINT(google-runtime-int)
  absl::Status failure_;             // of which a plain source is told
  std::unique_ptr<SocketStream> socket_;
  SslPtr ssl_;
};

absl::StatusOr<std::shared_ptr<TlsSecurity>> TlsSecurity::Create(const TlsOptions& options, TlsSide side,
                                                                 const Address& address, OnSecured on_secured,
                                                                 OnReload on_reload) {
  FERRITE_RETURN_IF_ERROR(TlsCredentials::CheckOptions(options));
  FERRITE_ASSIGN_OR_RETURN(TlsFiles files, TlsFiles::Find(options));
  // Before they are read: what changes meanwhile is read again.
  std::vector<TlsFileMark> marks = TlsCredentials::Marks(files, options, side).value_or(std::vector<TlsFileMark>());
  FERRITE_ASSIGN_OR_RETURN(std::shared_ptr<const TlsCredentials> credentials,
                           TlsCredentials::Load(files, options, side));
  TlsOptions wanted = options;
  if (wanted.hostname.empty() && side == TlsSide::kSource && credentials->has_certificate()) {
    if (address.kind != Address::Kind::kTcp) {
      return absl::InvalidArgumentError(
          absl::StrCat("TLS to ", address.ToString(),
                       ": a unix socket has no host's name; say by --tls-hostname which the destination's "
                       "certificate has"));
    }
    wanted.hostname = address.host;
  }
  return std::shared_ptr<TlsSecurity>(new TlsSecurity(std::move(files), std::move(wanted), side, std::move(marks),
                                                      std::move(credentials), std::move(on_secured),
                                                      std::move(on_reload)));
}

std::shared_ptr<const TlsCredentials> TlsSecurity::Newest() {
  const absl::MutexLock lock(&mutex_);
  if (side_ == TlsSide::kSource) {
    return credentials_;
  }
  // What this host lacks for a look, or to read them, is no other file.
  absl::StatusOr<std::vector<TlsFileMark>> marks = TlsCredentials::Marks(files_, options_, side_);
  if (!marks.ok() || *marks == marks_) {
    return credentials_;
  }
  absl::StatusOr<std::shared_ptr<const TlsCredentials>> read = TlsCredentials::Load(files_, options_, side_);
  if (absl::IsResourceExhausted(read.status())) {
    return credentials_;
  }
  marks_ = *std::move(marks);
  if (read.ok()) {
    credentials_ = *read;
  }
  if (on_reload_) {
    on_reload_(read.status());
  }
  return credentials_;
}

absl::StatusOr<std::unique_ptr<Handshake>> TlsSecurity::Start(std::unique_ptr<SocketStream> socket) {
  std::shared_ptr<const TlsCredentials> credentials = Newest();
  FERRITE_ASSIGN_OR_RETURN(ssl_st* const made, credentials->NewConnection(options_.hostname));
  SslPtr ssl(made);
  FERRITE_ASSIGN_OR_RETURN(bio_st* const bio, NewTlsSocketBio(socket->fd()));
  SSL_set_bio(ssl.get(), bio, bio);
  return std::make_unique<TlsHandshake>(std::move(socket), std::move(ssl), std::move(credentials), *this);
}

}  // namespace ferrite::migration
