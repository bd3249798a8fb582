#include "migration/channel/tls/tls_errors.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

using Code = unsigned long;  // NOLINT(google-runtime-int): the library's

std::string ReasonOf(Code error) {
  if (ERR_SYSTEM_ERROR(error)) {
    return std::string(ErrnoStatus(static_cast<int>(ERR_GET_REASON(error)), "TLS").message());
  }
  const char* const reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "OpenSSL gives no reason";
}

// What TLS itself says comes before what led to it, which was said first.
Code TakeError() {
  Code taken = 0;
  while (const Code error = ERR_get_error()) {
    if (taken == 0 || (ERR_GET_LIB(taken) != ERR_LIB_SSL && ERR_GET_LIB(error) == ERR_LIB_SSL)) {
      taken = error;
    }
  }
  return taken;
}

// Whether this side goes by pre-shared keys (psk_callbacks.cc).
bool HasKeys(const ssl_st* ssl) { return SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)) != nullptr; }

// Of an alert that came.
std::string AlertOf(int reason) { return SSL_alert_desc_string_long(reason - SSL_AD_REASON_OFFSET); }

std::string WhyNotBelieved(const ssl_st* ssl, absl::string_view wanted) {
  const long why = SSL_get_verify_result(ssl);  // NOLINT(google-runtime-int): the library's
  const char* const words = X509_verify_cert_error_string(why);
  if (HasKeys(ssl)) {
    return "it does not know our pre-shared key, and shows a certificate";
  }
  return why == X509_V_ERR_HOSTNAME_MISMATCH || why == X509_V_ERR_IP_ADDRESS_MISMATCH
             ? absl::StrCat("its certificate is not for ", wanted, ": ", words)
             : absl::StrCat("its certificate is not believed: ", words);
}

}  // namespace

absl::Status LibraryError(absl::string_view what, absl::StatusCode code) {
  const Code error = ERR_peek_error();
  const bool no_memory = ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
  const std::string words = absl::StrCat(what, ": ", ReasonOf(error));
  ERR_clear_error();
  return {no_memory ? absl::StatusCode::kResourceExhausted : code, words};
}

bool IsNoTls() {
  const Code error = ERR_peek_error();
  return ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) == SSL_R_WRONG_VERSION_NUMBER;
}

std::string WhyTlsFailed(const ssl_st* ssl, int error, bool in_handshake, absl::string_view wanted) {
  const Code first = TakeError();
  const int reason = ERR_GET_LIB(first) == ERR_LIB_SSL ? ERR_GET_REASON(first) : 0;
  if (first == 0 || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    const bool gone = error == 0 || error == ECONNRESET || error == EPIPE;
    if (first == 0 && !(in_handshake && gone) && error != 0) {
      return std::string(ErrnoStatus(error, "TLS").message());
    }
    return in_handshake ? "it closed the connection in the TLS handshake; is it one that takes TLS?"
                        : "the connection was cut off: it ended without TLS's close_notify";
  }
  // What the other end told in an alert (RFC 8446, 6.2).
  if (reason >= SSL_AD_REASON_OFFSET) {
    switch (reason - SSL_AD_REASON_OFFSET) {
      case SSL_AD_UNKNOWN_CA:
        return "it does not know the CA of our certificate (alert unknown_ca)";
      case SSL_AD_CERTIFICATE_EXPIRED:
        return "it says that our certificate is expired, or not yet valid (alert certificate_expired)";
      case SSL_AD_CERTIFICATE_REQUIRED:
        return "it wants a certificate of us (alert certificate_required)";
      case SSL_AD_BAD_CERTIFICATE:
      case SSL_AD_UNSUPPORTED_CERTIFICATE:
      case SSL_AD_CERTIFICATE_REVOKED:
      case SSL_AD_CERTIFICATE_UNKNOWN:
      case SSL_AD_ACCESS_DENIED:
        return absl::StrCat("it does not take our certificate (alert: ", AlertOf(reason), ")");
      case SSL_AD_HANDSHAKE_FAILURE:
        return absl::StrCat(HasKeys(ssl) ? "it does not know our pre-shared key" : "it wants a pre-shared key",
                            ", or goes by other ciphers (alert: ", AlertOf(reason), ")");
      case SSL_AD_ILLEGAL_PARAMETER:  // the library's answer to a key that is not the one of that name
        if (!in_handshake || !HasKeys(ssl)) {
          return absl::StrCat("it ended the TLS connection (alert: ", AlertOf(reason), ")");
        }
        [[fallthrough]];
      case SSL_AD_DECRYPT_ERROR:
      case SSL_AD_UNKNOWN_PSK_IDENTITY:
        return absl::StrCat("it has another key than ours (alert: ", AlertOf(reason), ")");
      default:
        return absl::StrCat("it ended the TLS connection (alert: ", AlertOf(reason), ")");
    }
  }
  switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return WhyNotBelieved(ssl, wanted);
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return "it has no certificate";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
      return in_handshake ? "it does not speak TLS" : absl::StrCat("TLS: ", ReasonOf(first));
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_UNKNOWN_PROTOCOL:
    case SSL_R_VERSION_TOO_LOW:
      return "it does not speak TLS 1.3";
    case SSL_R_BINDER_DOES_NOT_VERIFY:
      return "it has another key of that name than we have";
    case SSL_R_NO_SHARED_CIPHER:
    case SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM:
      return "it has no pre-shared key that we know, or uses certificates where we do not";
    default:
      return absl::StrCat("TLS: ", ReasonOf(first));
  }
}

}  // namespace ferrite::migration
