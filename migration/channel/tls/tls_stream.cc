#include "migration/channel/tls/tls_stream.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "migration/channel/socket/buffers.h"
#include "migration/channel/tls/tls_errors.h"
#include "migration/channel/tls/tls_socket_bio.h"

namespace ferrite::migration {
namespace {

constexpr absl::Duration kDefaultPatience = absl::Seconds(10);
// A wait looks at its patience so often.
constexpr absl::Duration kStep = absl::Milliseconds(100);
// A key of AES-GCM is for some ten million records (RFC 8446, 5.5), less than a large machine has. A new one costs
// little.
constexpr uint64_t kMostRecords = 1 << 12;
constexpr absl::string_view kBindLabel = "EXPORTER-ferrite-move-1";

int PollMs(absl::Duration time) {
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(time), 1, 1 << 30));
}

}  // namespace

void FreeSsl::operator()(ssl_st* ssl) const { SSL_free(ssl); }

TlsStream::TlsStream(std::unique_ptr<SocketStream> socket, SslPtr ssl, std::string parties)
    : socket_(std::move(socket)), parties_(std::move(parties)), ssl_(std::move(ssl)) {
  SetPatience(kDefaultPatience);
}

TlsStream::~TlsStream() {
  const absl::MutexLock lock(&mutex_);
  SayClose();
}

absl::Status TlsStream::Read(std::span<uint8_t> out, bool in_frame) {
  size_t got = 0;
  while (got < out.size()) {
    const absl::StatusOr<Step> step = ReadStep(out.subspan(got));
    if (!step.ok()) {
      return absl::IsOutOfRange(step.status()) && got > 0
                 ? absl::UnavailableError(absl::StrCat(step.status().message(), " in the middle of a frame"))
                 : step.status();
    }
    got += step->bytes;
    if (step->bytes > 0) {
      continue;
    }
    if (got > 0 || in_frame || step->in_record) {
      FERRITE_RETURN_IF_ERROR(AwaitInFrame(step->events));
    } else {
      pollfd polled{.fd = fd(), .events = step->events, .revents = 0};
      (void)poll(&polled, 1, -1);
    }
  }
  return absl::OkStatus();
}

absl::Status TlsStream::AwaitInFrame(short events) {  // NOLINT(google-runtime-int)
  pollfd polled{.fd = fd(), .events = events, .revents = 0};
  // A signal may end it early, and it is asked for again.
  return poll(&polled, 1, PollMs(absl::Nanoseconds(read_patience_.load()))) != 0
             ? absl::OkStatus()
             : absl::UnavailableError(absl::StrCat(peer(), " stopped sending in the middle of a frame"));
}

absl::StatusOr<TlsStream::Step> TlsStream::ReadStep(std::span<uint8_t> out) {
  const absl::MutexLock lock(&mutex_);
  if (shut_down_) {
    return absl::OutOfRangeError(absl::StrCat(peer(), " closed the connection"));
  }
  FERRITE_RETURN_IF_ERROR(failure_);
  ERR_clear_error();
  size_t bytes = 0;
  int result = 0;
  int error = 0;
  // Of all that the library does here, its last copy alone touches `out`: nothing of its own is half done then.
  const std::optional<uintptr_t> hit = TouchMemory([&] {
    errno = 0;
    result = SSL_read_ex(ssl_.get(), out.data(), out.size(), &bytes);
    error = errno;
  });
  if (hit.has_value()) {
    failure_ = absl::ResourceExhaustedError(
        absl::StrCat("receive from ", peer(), ": memory of this side cannot be had; the connection is in order"));
    return failure_;
  }
  if (result == 1) {
    return Step{.bytes = bytes};
  }
  return AfterCall(result, error);
}

absl::StatusOr<TlsStream::Step> TlsStream::AfterCall(int result, int error) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Step{.events = POLLIN,
                  .in_record = SSL_has_pending(ssl_.get()) == 1 || HasBytes(SSL_get_rbio(ssl_.get()))};
    case SSL_ERROR_WANT_WRITE:
      return Step{.events = POLLOUT, .in_record = true};
    case SSL_ERROR_ZERO_RETURN:
      failure_ = absl::OutOfRangeError(absl::StrCat(peer(), " closed the connection"));
      break;
    default:
      failure_ = absl::UnavailableError(absl::StrCat(peer(), ": ", WhyTlsFailed(ssl_.get(), error, false)));
  }
  ERR_clear_error();
  return failure_;
}

absl::Status TlsStream::WriteAll(std::span<iovec> buffers) {
  buffers = Advance(buffers, 0);
  while (!buffers.empty()) {
    size_t bytes = 0;
    const std::optional<uintptr_t> hit = TouchMemory([&] {
      for (const iovec& piece : buffers) {
        const size_t taken = std::min(piece.iov_len, record_.size() - bytes);
        std::memcpy(&record_[bytes], piece.iov_base, taken);
        bytes += taken;
        if (bytes == record_.size()) {
          break;
        }
      }
    });
    if (hit.has_value()) {
      return absl::ResourceExhaustedError(
          absl::StrCat("send to ", peer(), ": memory of this side cannot be had; the connection is in order"));
    }
    absl::Duration waited;
    while (true) {
      FERRITE_ASSIGN_OR_RETURN(const Step step, WriteStep(std::span(record_).first(bytes)));
      if (step.bytes > 0) {
        break;
      }
      // Each wait lasts for a step, in which nothing went; the patience may change meanwhile.
      const absl::Duration patience = absl::Nanoseconds(write_patience_.load());
      const absl::Duration now = std::min(patience, kStep);
      pollfd polled{.fd = fd(), .events = step.events, .revents = 0};
      const int ready = poll(&polled, 1, PollMs(now));
      waited = ready > 0 ? absl::ZeroDuration() : waited + (ready == 0 ? now : absl::ZeroDuration());
      if (waited >= absl::Nanoseconds(write_patience_.load())) {
        const absl::MutexLock lock(&mutex_);
        abandoned_ = true;
        return absl::UnavailableError(absl::StrCat(peer(), " stopped reading"));
      }
    }
    buffers = Advance(buffers, bytes);
  }
  return absl::OkStatus();
}

absl::StatusOr<TlsStream::Step> TlsStream::WriteStep(std::span<const uint8_t> record) {
  const absl::MutexLock lock(&mutex_);
  if (shut_down_) {
    return absl::UnavailableError(absl::StrCat(peer(), ": the connection was closed here"));
  }
  if (!failure_.ok() && !absl::IsOutOfRange(failure_)) {
    return absl::UnavailableError(failure_.message());
  }
  if (abandoned_) {
    return absl::UnavailableError(absl::StrCat(peer(), " stopped reading before"));
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
  std::string why = WhyTlsFailed(ssl_.get(), error, false);
  // Who does not want us says so before it goes, and that says more than "broken pipe".
  if (short events = 0; failure_.ok() && HasSomething(events) && absl::IsUnavailable(failure_)) {  // NOLINT
    return failure_;
  }
  failure_ = absl::UnavailableError(absl::StrCat("send to ", peer(), ": ", why));
  return failure_;
}

size_t TlsStream::WriteSome(std::span<const uint8_t> bytes) {
  const absl::MutexLock lock(&mutex_);
  size_t written = 0;
  const auto open = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !shut_down_ && !write_pending_ && !abandoned_ && (failure_.ok() || absl::IsOutOfRange(failure_));
  };
  while (written < bytes.size() && open() && socket_->IsWritable()) {
    const std::span<const uint8_t> piece =
        bytes.subspan(written).first(std::min(bytes.size() - written, kMostRecordBytes));
    ERR_clear_error();
    size_t taken = 0;
    if (SSL_write_ex(ssl_.get(), piece.data(), piece.size(), &taken) != 1) {
      // It may have gone in part, and its bytes are not kept for its rest.
      abandoned_ = true;
      ERR_clear_error();
      break;
    }
    written += taken;
  }
  return written;
}

absl::StatusOr<size_t> TlsStream::ReadSome(std::span<uint8_t> out) {
  size_t got = 0;
  while (got < out.size()) {
    const absl::StatusOr<Step> step = ReadStep(out.subspan(got));
    if (!step.ok()) {
      // It stays so, and comes next.
      return got > 0 ? absl::StatusOr<size_t>(got) : step.status();
    }
    if (step->bytes == 0) {
      break;
    }
    got += step->bytes;
  }
  return got;
}

void TlsStream::SayClose() {
  if (!write_pending_ && !abandoned_ && (failure_.ok() || absl::IsOutOfRange(failure_)) &&
      SSL_is_init_finished(ssl_.get()) == 1) {
    ERR_clear_error();
    (void)SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
}

void TlsStream::Shutdown() {
  {
    const absl::MutexLock lock(&mutex_);
    if (!shut_down_.exchange(true)) {
      SayClose();
    }
  }
  socket_->Shutdown();
}

void TlsStream::SetPatience(absl::Duration patience) {
  read_patience_ = absl::ToInt64Nanoseconds(patience);
  socket_->SetPatience(patience);  // TCP's
  SetWritePatience(patience);
}

void TlsStream::SetWritePatience(absl::Duration patience) { write_patience_ = absl::ToInt64Nanoseconds(patience); }

bool TlsStream::HasSomething(short& events) {  // NOLINT(google-runtime-int)
  events = POLLIN;
  if (shut_down_ || !failure_.ok() || SSL_pending(ssl_.get()) > 0) {
    return true;
  }
  ERR_clear_error();
  uint8_t byte = 0;
  size_t bytes = 0;
  errno = 0;
  const int result = SSL_peek_ex(ssl_.get(), &byte, 1, &bytes);
  if (result == 1) {
    return true;
  }
  const absl::StatusOr<Step> step = AfterCall(result, errno);
  if (step.ok()) {
    events = step->events;
  }
  return !step.ok();
}

bool TlsStream::AwaitReadable(const Clock& clock, absl::Duration limit) {
  const MonotonicTime deadline = clock.Now() + limit;
  while (true) {
    pollfd polled{.fd = fd(), .events = 0, .revents = 0};
    {
      const absl::MutexLock lock(&mutex_);
      if (HasSomething(polled.events)) {
        return true;
      }
    }
    // A record that is here in part is nothing yet.
    if (clock.PollFor({&polled, 1}, deadline - clock.Now()) <= 0) {
      return false;
    }
  }
}

absl::Status TlsStream::Join(WaitSet& set, uint32_t tag) {
  set.AddCheck(
      [this] {
        const absl::MutexLock lock(&mutex_);
        short events = 0;  // NOLINT(google-runtime-int)
        return (SSL_has_pending(ssl_.get()) == 1 || HasBytes(SSL_get_rbio(ssl_.get())) || !failure_.ok()) &&
               HasSomething(events);
      },
      tag);
  return set.Add(fd(), tag);
}

absl::StatusOr<Nonce> TlsStream::Bind(const Nonce& nonce) const {
  const absl::MutexLock lock(&mutex_);
  Nonce bound;
  if (SSL_export_keying_material(ssl_.get(), bound.data(), bound.size(), kBindLabel.data(), kBindLabel.size(),
                                 nonce.data(), nonce.size(), /*use_context=*/1) != 1) {
    return LibraryError("bind to a TLS connection");
  }
  return bound;
}

}  // namespace ferrite::migration
