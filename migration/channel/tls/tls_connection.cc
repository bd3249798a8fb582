#include "migration/channel/tls/tls_connection.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "migration/channel/tls/tls_errors.h"
#include "migration/channel/tls/tls_socket_bio.h"

namespace ferrite::migration {
namespace {

// A key of AES-GCM is for some ten million records (RFC 8446, 5.5), less than a large machine has. A new one costs
// little.
constexpr uint64_t kMostRecords = 1 << 12;
constexpr absl::string_view kBindLabel = "EXPORTER-ferrite-move-1";

// SSL_set_msg_callback(3): whole messages, of which none is data.
void CountMessage(int is_written, int /*version*/, int type, const void* /*bytes*/, size_t /*size*/, SSL* /*ssl*/,
                  void* count) {
  if (is_written == 0 && type == SSL3_RT_HANDSHAKE) {
    ++*static_cast<int*>(count);
  }
}

}  // namespace

void FreeSsl::operator()(ssl_st* ssl) const { SSL_free(ssl); }

TlsConnection::TlsConnection(SslPtr ssl, std::string peer) : peer_(std::move(peer)), ssl_(std::move(ssl)) {
  const absl::MutexLock lock(&mutex_);
  // The library would go on over such messages as long as they come, in one call.
  SSL_clear_mode(ssl_.get(), SSL_MODE_AUTO_RETRY);
  SSL_set_msg_callback(ssl_.get(), CountMessage);
  SSL_set_msg_callback_arg(ssl_.get(), &messages_);
}

template <typename Call>
std::pair<int, int> TlsConnection::Take(const Call& call) {
  while (true) {
    const int before = messages_;
    ERR_clear_error();
    errno = 0;
    const int result = call();
    const int error = errno;
    if (result == 1) {
      messages_ = 0;
    }
    if (result == 1 || messages_ == before || messages_ > kMostMessages ||
        SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_READ) {
      return {result, error};
    }
  }
}

absl::StatusOr<TlsConnection::Step> TlsConnection::Read(std::span<uint8_t> out) {
  const absl::MutexLock lock(&mutex_);
  if (closed_) {
    return absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"));
  }
  FERRITE_RETURN_IF_ERROR(failure_);
  size_t bytes = 0;
  bool is_lost = false;
  const auto [result, error] = Take([&] {
    // Of all that the library does here, its last copy alone touches `out`: nothing of its own is half done then.
    int read = 0;
    is_lost = TouchMemory([&] { read = SSL_read_ex(ssl_.get(), out.data(), out.size(), &bytes); }).has_value();
    return is_lost ? 1 : read;
  });
  if (is_lost) {
    failure_ = absl::ResourceExhaustedError(
        absl::StrCat("receive from ", peer_, ": memory of this side cannot be had; the connection is in order"));
    return failure_;
  }
  if (result == 1) {
    return Step{.bytes = bytes};
  }
  return AfterCall(result, error);
}

absl::StatusOr<TlsConnection::Step> TlsConnection::AfterCall(int result, int error) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      if (messages_ > kMostMessages) {
        failure_ = absl::UnavailableError(absl::StrCat(peer_, ": it renews keys again and again, and sends nothing"));
        break;
      }
      return Step{.events = POLLIN,
                  .in_record = SSL_has_pending(ssl_.get()) == 1 || HasBytes(SSL_get_rbio(ssl_.get()))};
    case SSL_ERROR_WANT_WRITE:
      return Step{.events = POLLOUT, .in_record = true};
    case SSL_ERROR_ZERO_RETURN:
      failure_ = absl::OutOfRangeError(absl::StrCat(peer_, " closed the connection"));
      break;
    default:
      failure_ =
          absl::UnavailableError(absl::StrCat(peer_, ": ", WhyTlsFailed(ssl_.get(), error, /*in_handshake=*/false)));
  }
  ERR_clear_error();
  return failure_;
}

absl::StatusOr<TlsConnection::Step> TlsConnection::Write(std::span<const uint8_t> record, Part part) {
  const absl::MutexLock lock(&mutex_);
  if (!writable()) {
    const absl::Status& failed = failure_.ok() || absl::IsOutOfRange(failure_) ? write_failure_ : failure_;
    return absl::UnavailableError(closed_      ? absl::StrCat(peer_, ": the connection was closed here")
                                  : abandoned_ ? absl::StrCat(peer_, " stopped reading before")
                                               : std::string(failed.message()));
  }
  if (part == Part::kBegin && write_pending_) {
    return absl::UnavailableError(absl::StrCat(peer_, ": something else is being written"));
  }
  ERR_clear_error();
  // The kernel, where it encrypts, has but one key.
  if (!write_pending_ && ++records_ >= kMostRecords && !BIO_get_ktls_send(SSL_get_wbio(ssl_.get()))) {
    records_ = 0;
    (void)SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED);
  }
  errno = 0;
  size_t bytes = 0;
  const int result = SSL_write_ex(ssl_.get(), record.data(), record.size(), &bytes);
  const int error = errno;
  write_pending_ = false;
  if (result == 1) {
    return Step{.bytes = bytes};
  }
  if (const int why = SSL_get_error(ssl_.get(), result); why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ) {
    write_pending_ = true;
    return Step{.events = static_cast<short>(why == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN)};  // NOLINT
  }
  const std::string why = WhyTlsFailed(ssl_.get(), error, /*in_handshake=*/false);
  // Who does not want us says so before it goes, and that says more than "broken pipe".
  if (short events = 0; failure_.ok() && Look(events) && absl::IsUnavailable(failure_)) {  // NOLINT
    return failure_;
  }
  // Its last words may be here: reads find the end, or what else there is, by themselves.
  write_failure_ = absl::UnavailableError(absl::StrCat("send to ", peer_, ": ", why));
  return write_failure_;
}

void TlsConnection::Abandon() {
  const absl::MutexLock lock(&mutex_);
  abandoned_ = true;
}

void TlsConnection::Close() {
  const absl::MutexLock lock(&mutex_);
  if (writable() && !write_pending_) {
    ERR_clear_error();
    (void)SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
  closed_ = true;
}

bool TlsConnection::Look(short& events) {  // NOLINT(google-runtime-int)
  events = POLLIN;
  if (closed_ || !failure_.ok() || SSL_pending(ssl_.get()) > 0) {
    return true;
  }
  uint8_t byte = 0;
  size_t bytes = 0;
  const auto [result, error] = Take([&] { return SSL_peek_ex(ssl_.get(), &byte, 1, &bytes); });
  if (result == 1) {
    return true;
  }
  const absl::StatusOr<Step> step = AfterCall(result, error);
  if (step.ok()) {
    events = step->events;
  }
  return !step.ok();
}

bool TlsConnection::HasSomething(short& events) {  // NOLINT(google-runtime-int)
  const absl::MutexLock lock(&mutex_);
  return Look(events);
}

bool TlsConnection::HasSomethingAhead() {
  const absl::MutexLock lock(&mutex_);
  short events = 0;  // NOLINT(google-runtime-int)
  return (SSL_has_pending(ssl_.get()) == 1 || HasBytes(SSL_get_rbio(ssl_.get())) || !failure_.ok()) && Look(events);
}

absl::StatusOr<Nonce> TlsConnection::Bind(const Nonce& nonce) const {
  const absl::MutexLock lock(&mutex_);
  Nonce bound;
  if (SSL_export_keying_material(ssl_.get(), bound.data(), bound.size(), kBindLabel.data(), kBindLabel.size(),
                                 nonce.data(), nonce.size(), /*use_context=*/1) != 1) {
    return LibraryError("bind to a TLS connection");
  }
  return bound;
}

}  // namespace ferrite::migration
