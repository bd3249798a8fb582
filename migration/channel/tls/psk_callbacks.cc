#include "migration/channel/tls/psk_callbacks.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "migration/channel/tls/tls_credentials.h"

namespace ferrite::migration {
namespace {

constexpr unsigned char kAes128GcmSha256[] = {0x13, 0x01};
constexpr char kCiphersOfSha256[] = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";

const std::vector<PreSharedKey>& KeysOf(const SSL* ssl) {
  return *static_cast<const std::vector<PreSharedKey>*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
}

// The key that a connection goes by is kept with it.
void SetKeyOf(SSL* ssl, const PreSharedKey& key) { (void)SSL_set_app_data(ssl, const_cast<PreSharedKey*>(&key)); }

// Null for want of memory.
SSL_SESSION* SessionOf(SSL* ssl, const PreSharedKey& key) {
  const SSL_CIPHER* const cipher = SSL_CIPHER_find(ssl, kAes128GcmSha256);
  SSL_SESSION* const session = SSL_SESSION_new();
  if (session == nullptr || cipher == nullptr ||
      SSL_SESSION_set1_master_key(session, reinterpret_cast<const unsigned char*>(key.key.data()), key.key.size()) !=
          1 ||
      SSL_SESSION_set_cipher(session, cipher) != 1 || SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) != 1) {
    SSL_SESSION_free(session);
    return nullptr;
  }
  return session;
}

int OnSource(SSL* ssl, const EVP_MD* hash, const unsigned char** identity, size_t* length, SSL_SESSION** session) {
  *session = nullptr;
  const PreSharedKey& key = KeysOf(ssl).front();
  if (hash != nullptr && EVP_MD_is_a(hash, "SHA256") == 0) {
    return 1;  // without a key, which ends it
  }
  *session = SessionOf(ssl, key);
  *identity = reinterpret_cast<const unsigned char*>(key.identity.data());
  *length = key.identity.size();
  SetKeyOf(ssl, key);
  return *session != nullptr ? 1 : 0;
}

int OnDestination(SSL* ssl, const unsigned char* identity, size_t length, SSL_SESSION** session) {
  *session = nullptr;
  const absl::string_view name(reinterpret_cast<const char*>(identity), length);
  const std::vector<PreSharedKey>& keys = KeysOf(ssl);
  const auto found =
      std::find_if(keys.begin(), keys.end(), [&](const PreSharedKey& one) { return one.identity == name; });
  if (found == keys.end()) {
    return 1;  // likewise: there is no certificate
  }
  SetKeyOf(ssl, *found);
  *session = SessionOf(ssl, *found);
  return *session != nullptr ? 1 : 0;
}

}  // namespace

void UseKeys(ssl_ctx_st* context, const std::vector<PreSharedKey>& keys, TlsSide side) {
  (void)SSL_CTX_set_app_data(context, const_cast<std::vector<PreSharedKey>*>(&keys));
  (void)SSL_CTX_set_ciphersuites(context, kCiphersOfSha256);
  if (side == TlsSide::kSource) {
    SSL_CTX_set_psk_use_session_callback(context, OnSource);
  } else {
    SSL_CTX_set_psk_find_session_callback(context, OnDestination);
  }
}

std::string IdentityOf(const ssl_st* ssl) {
  // The library says "reused" of a session that a callback gave: no ticket makes another one (tls_credentials.cc).
  const auto* const key = static_cast<const PreSharedKey*>(SSL_get_app_data(ssl));
  return key != nullptr && SSL_session_reused(ssl) == 1 ? key->identity : "";
}

}  // namespace ferrite::migration
