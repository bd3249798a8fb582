// OpenSSL's errors, as words.
#ifndef FERRITE_MIGRATION_CHANNEL_TLS_TLS_ERRORS_H_
#define FERRITE_MIGRATION_CHANNEL_TLS_TLS_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

struct ssl_st;

namespace ferrite::migration {

// The library's errors are its thread's until somebody takes them: "<what>: <the reason>", and none is left.
// RESOURCE_EXHAUSTED for want of memory, else `code`.
absl::Status LibraryError(absl::string_view what, absl::StatusCode code = absl::StatusCode::kInternal);

// Why a call on `ssl` failed for good (SSL_ERROR_SSL, SSL_ERROR_SYSCALL), in words for who reads the log: what the
// other end does not like about us, or we about it. `error` is errno after the call. None is left. In a handshake it
// matters whether the other end speaks TLS at all, and `wanted`, the name that its certificate was to have.
std::string WhyTlsFailed(const ssl_st* ssl, int error, bool in_handshake, absl::string_view wanted = "");
// Whether a call on an SSL failed because what came is no TLS, of which the library tells the other end nothing.
bool IsNoTls();

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_CHANNEL_TLS_TLS_ERRORS_H_
