#include "tests/fakes/raw_tls_source.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <cstddef>
#include <utility>

#include "base/status.h"

namespace ferrite::migration {
namespace {

std::unique_ptr<TlsCredentials> CredentialsOf(const TlsPlace& place) {
  auto credentials = TlsCredentials::Load(place.options(), TlsSide::kSource);
  FERRITE_CHECK(credentials.ok());
  return *std::move(credentials);
}

SslPtr ConnectionOf(const TlsCredentials& credentials) {
  auto ssl = credentials.NewConnection("localhost");
  FERRITE_CHECK(ssl.ok());
  return SslPtr(*ssl);
}

}  // namespace

RawTlsSource::RawTlsSource(const TlsPlace& place, std::unique_ptr<SocketStream> socket)
    : socket_(std::move(socket)), credentials_(CredentialsOf(place)), ssl_(ConnectionOf(*credentials_)) {
  // A blocking socket.
  FERRITE_CHECK(SSL_set_fd(ssl_.get(), socket_->fd()) == 1 && SSL_do_handshake(ssl_.get()) == 1);
  BIO* const written = BIO_new(BIO_s_mem());
  FERRITE_CHECK(written != nullptr);
  SSL_set0_wbio(ssl_.get(), written);
}

RawTlsSource::~RawTlsSource() = default;

std::string RawTlsSource::KeyUpdates(int count) {
  for (int i = 0; i < count; ++i) {
    FERRITE_CHECK(SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) == 1 && SSL_do_handshake(ssl_.get()) == 1);
  }
  return Taken();
}

std::string RawTlsSource::Data(absl::string_view words) {
  size_t bytes = 0;
  FERRITE_CHECK(SSL_write_ex(ssl_.get(), words.data(), words.size(), &bytes) == 1 && bytes == words.size());
  return Taken();
}

std::string RawTlsSource::Taken() {
  char* bytes = nullptr;
  BIO* const written = SSL_get_wbio(ssl_.get());
  const long length = BIO_get_mem_data(written, &bytes);  // NOLINT(google-runtime-int): the library's
  std::string taken(bytes, static_cast<size_t>(length));
  (void)BIO_reset(written);
  return taken;
}

}  // namespace ferrite::migration
