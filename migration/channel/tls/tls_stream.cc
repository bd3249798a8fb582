#include "migration/channel/tls/tls_stream.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "memory/bus_fault.h"
#include "migration/channel/socket/buffers.h"

namespace ferrite::migration {
namespace {

constexpr int kForever = -1;
constexpr absl::Duration kDefaultPatience = absl::Seconds(10);
// A write that waits looks at its patience so often.
constexpr absl::Duration kWriteStep = absl::Milliseconds(100);

int PollMs(absl::Duration time) {
  return static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(time), 1, 1 << 30));
}

}  // namespace

TlsStream::TlsStream(std::unique_ptr<SocketStream> socket, SslPtr ssl, std::string parties)
    : socket_(std::move(socket)), parties_(std::move(parties)), connection_(std::move(ssl), socket_->peer()) {
  SetPatience(kDefaultPatience);
}

absl::Status TlsStream::Read(std::span<uint8_t> out, bool in_frame) {
  size_t got = 0;
  while (got < out.size()) {
    const absl::StatusOr<TlsConnection::Step> step = connection_.Read(out.subspan(got));
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
      (void)poll(&polled, 1, kForever);
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

absl::Status TlsStream::WriteAll(std::span<iovec> buffers) {
  buffers = Advance(buffers, 0);
  while (!buffers.empty()) {
    size_t bytes = 0;
    const std::optional<uintptr_t> hit = TouchMemory([&] {
      for (const iovec& piece : buffers) {
        const size_t taken = std::min(piece.iov_len, record_.size() - bytes);
        std::memcpy(&record_[0] + bytes, piece.iov_base, taken);
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
    FERRITE_RETURN_IF_ERROR(WriteRecord(std::span(record_).first(bytes)));
    buffers = Advance(buffers, bytes);
  }
  return absl::OkStatus();
}

absl::Status TlsStream::WriteRecord(std::span<const uint8_t> record) {
  absl::Duration waited;
  auto part = TlsConnection::Part::kBegin;
  while (true) {
    FERRITE_ASSIGN_OR_RETURN(const TlsConnection::Step step, connection_.Write(record, part));
    part = TlsConnection::Part::kRest;
    if (step.bytes > 0) {
      return absl::OkStatus();
    }
    // Each wait lasts for a step, in which nothing went; the patience may change meanwhile.
    const absl::Duration now = std::min(absl::Nanoseconds(write_patience_.load()), kWriteStep);
    pollfd polled{.fd = fd(), .events = step.events, .revents = 0};
    const int ready = poll(&polled, 1, PollMs(now));
    waited = ready > 0 ? absl::ZeroDuration() : waited + (ready == 0 ? now : absl::ZeroDuration());
    if (waited >= absl::Nanoseconds(write_patience_.load())) {
      connection_.Abandon();
      return absl::UnavailableError(absl::StrCat(peer(), " stopped reading"));
    }
  }
}

size_t TlsStream::WriteSome(std::span<const uint8_t> bytes) {
  size_t written = 0;
  while (written < bytes.size() && socket_->IsWritable()) {
    const size_t piece = std::min(bytes.size() - written, TlsConnection::kMostRecordBytes);
    const auto step = connection_.Write(bytes.subspan(written, piece), TlsConnection::Part::kBegin);
    if (!step.ok()) {
      break;
    }
    if (step->bytes == 0) {
      // It may have gone in part, and its bytes are not kept for its rest.
      connection_.Abandon();
      break;
    }
    written += step->bytes;
  }
  return written;
}

absl::StatusOr<size_t> TlsStream::ReadSome(std::span<uint8_t> out) {
  size_t got = 0;
  while (got < out.size()) {
    const absl::StatusOr<TlsConnection::Step> step = connection_.Read(out.subspan(got));
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

void TlsStream::Shutdown() {
  shut_down_ = true;
  connection_.Close();
  socket_->Shutdown();
}

void TlsStream::SetPatience(absl::Duration patience) {
  read_patience_ = absl::ToInt64Nanoseconds(patience);
  socket_->SetPatience(patience);  // TCP's
  SetWritePatience(patience);
}

void TlsStream::SetWritePatience(absl::Duration patience) { write_patience_ = absl::ToInt64Nanoseconds(patience); }

bool TlsStream::AwaitReadable(const Clock& clock, absl::Duration limit) {
  const MonotonicTime deadline = clock.Now() + limit;
  while (true) {
    pollfd polled{.fd = fd(), .events = 0, .revents = 0};
    if (connection_.HasSomething(polled.events)) {
      return true;
    }
    // A record that is here in part is nothing yet.
    if (clock.PollFor({&polled, 1}, deadline - clock.Now()) <= 0) {
      return false;
    }
  }
}

absl::Status TlsStream::Join(WaitSet& set, uint32_t tag) {
  set.AddCheck([this] { return connection_.HasSomethingAhead(); }, tag);
  return set.Add(fd(), tag);
}

}  // namespace ferrite::migration
