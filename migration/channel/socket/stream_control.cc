#include "migration/channel/socket/stream_control.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace ferrite::migration {
namespace {

// Of a message that was announced, memory for so much more than what came of it is taken, or as much again: who only
// announces one costs nothing.
constexpr size_t kReadAhead = 64 << 10;

// The first bytes of a TLS record (RFC 8446, 5.1).
constexpr uint8_t kTlsAlert = 21;
constexpr uint8_t kTlsMajor = 3;

}  // namespace

absl::Status StreamControlChannel::Send(const Message& message) { return stream_->WriteAll(Encode(message)); }

void StreamControlChannel::SendAtOnce(const Message& message) { (void)stream_->WriteSome(Encode(message)); }

absl::StatusOr<ControlChannel::Received> StreamControlChannel::Next(absl::Duration limit) {
  if (!stream_->AwaitReadable(clock_, limit)) {
    return absl::DeadlineExceededError(absl::StrCat(stream_->peer(), " says nothing"));
  }
  std::array<uint8_t, kControlHeaderBytes> head{};
  if (const absl::Status status = stream_->ReadAll(head); !status.ok()) {
    // An alert is shorter than a header, and the last word of who is not spoken to in TLS.
    return absl::UnavailableError(head[0] == kTlsAlert && head[1] == kTlsMajor
                                      ? absl::StrCat(stream_->peer(), " speaks TLS alone, and this side plain")
                                      : std::string(status.message()));
  }
  FERRITE_ASSIGN_OR_RETURN(const ControlHeader header, DecodeControlHeader(head, most_bytes_.load()));
  std::vector<uint64_t> payload;
  const size_t words = header.length / sizeof(uint64_t);
  while (payload.size() < words) {
    const size_t read = payload.size();
    const size_t piece = std::min(words - read, kReadAhead / sizeof(uint64_t));
    payload.resize(read + piece);
    if (const absl::Status status =
            stream_->ReadRest({reinterpret_cast<uint8_t*>(payload.data() + read), piece * sizeof(uint64_t)});
        !status.ok()) {
      return absl::UnavailableError(absl::IsOutOfRange(status)
                                        ? absl::StrCat(status.message(), " in the middle of a frame")
                                        : std::string(status.message()));
    }
  }
  FERRITE_RETURN_IF_ERROR(
      CheckControlPayload(header, {reinterpret_cast<const uint8_t*>(payload.data()), header.length}));
  absl::StatusOr<Message> message = Decode(payload);
  if (absl::IsResourceExhausted(message.status())) {
    // What this side lacks is no matter of the message.
    return message.status();
  }
  return Received{.message = std::move(message), .bytes = header.length};
}

}  // namespace ferrite::migration
