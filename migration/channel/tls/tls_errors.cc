#include "migration/channel/tls/tls_errors.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

std::string ReasonOf(unsigned long error) {  // NOLINT(google-runtime-int): the library's
  if (ERR_SYSTEM_ERROR(error)) {
    return std::string(ErrnoStatus(static_cast<int>(ERR_GET_REASON(error)), "TLS").message());
  }
  const char* const reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "OpenSSL gives no reason";
}

}  // namespace

absl::Status LibraryError(absl::string_view what, absl::StatusCode code) {
  const unsigned long error = ERR_peek_error();  // NOLINT(google-runtime-int)
  const bool no_memory = ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
  const std::string words = absl::StrCat(what, ": ", ReasonOf(error));
  ERR_clear_error();
  return {no_memory ? absl::StatusCode::kResourceExhausted : code, words};
}

std::string WhyTlsFailed(const ssl_st* ssl, int error, bool in_handshake) {
  const unsigned long first = ERR_peek_error();  // NOLINT(google-runtime-int)
  ERR_clear_error();
  const int reason = ERR_GET_LIB(first) == ERR_LIB_SSL ? ERR_GET_REASON(first) : 0;
  if (first == 0 || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    const bool gone = error == 0 || error == ECONNRESET || error == EPIPE;
    if (first == 0 && !(in_handshake && gone) && error != 0) {
      return std::string(ErrnoStatus(error, "TLS").message());
    }
    return in_handshake ? "it closed the connection in the TLS handshake; does it use TLS, with what we believe?"
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
        return absl::StrCat("it does not take our certificate (", ReasonOf(first), ")");
      case SSL_AD_DECRYPT_ERROR:
      case SSL_AD_UNKNOWN_PSK_IDENTITY:
        return absl::StrCat("it has another key than ours (", ReasonOf(first), ")");
      default:
        return absl::StrCat("it ended the TLS connection (", ReasonOf(first), ")");
    }
  }
  switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return absl::StrCat("its certificate is not believed: ",
                          X509_verify_cert_error_string(SSL_get_verify_result(ssl)));
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
