#include "migration/protocol/control_frame.h"

#include <kj/exception.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"
#include "base/out_of_memory.h"
#include "base/status.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

constexpr uint32_t kMark = 0x4c544346;  // "FCTL"
constexpr size_t kMarkAt = 0;           // u32
constexpr size_t kLengthAt = 4;         // u32, a multiple of 8
constexpr size_t kPayloadCrcAt = 8;     // u32
constexpr size_t kCrcAt = 12;           // u32: CRC-32C of bytes 0 to 11

capnp::ReaderOptions Limits(size_t words) {
  capnp::ReaderOptions options;
  // Every word may be read a few times (checks, then use), never without bound.
  options.traversalLimitInWords = 8 * words + 1024;
  options.nestingLimit = 16;
  return options;
}

// Cap'n Proto throws when a message is malformed; nothing of that leaves this file.
absl::Status Guard(absl::FunctionRef<absl::Status()> body) {
  absl::Status status;
  // A lack of memory here is nothing that the peer did.
  KJ_IF_MAYBE (exception, kj::runCatchingExceptions([&] { status = CatchOutOfMemory(body); })) {
    return absl::InvalidArgumentError(
        absl::StrCat("control frame: malformed message (", CleanText(exception->getDescription().cStr()), ")"));
  }
  return status;
}

}  // namespace

absl::StatusOr<ControlHeader> DecodeControlHeader(std::span<const uint8_t, kControlHeaderBytes> bytes, uint32_t most) {
  if (GetLittle<uint32_t>(&bytes[kMarkAt]) != kMark) {
    return absl::DataLossError(
        "control frame: what is at the other end does not speak ferrite's move protocol (wrong mark)");
  }
  if (GetLittle<uint32_t>(&bytes[kCrcAt]) != Crc32c(bytes.first<kCrcAt>())) {
    return absl::DataLossError("control frame: the header's checksum is wrong");
  }
  ControlHeader header;
  header.length = GetLittle<uint32_t>(&bytes[kLengthAt]);
  header.payload_crc = GetLittle<uint32_t>(&bytes[kPayloadCrcAt]);
  if (header.length > most) {
    return absl::ResourceExhaustedError(
        absl::StrCat("control frame: ", header.length, " bytes, at most ", most, " are allowed"));
  }
  if (header.length == 0 || header.length % sizeof(uint64_t) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("control frame: a length of ", header.length, " bytes"));
  }
  return header;
}

absl::StatusOr<ControlMessage> ControlMessage::Parse(const ControlHeader& header, std::vector<uint64_t> payload) {
  const std::span<const uint8_t> bytes(reinterpret_cast<const uint8_t*>(payload.data()),
                                       payload.size() * sizeof(uint64_t));
  if (bytes.size() != header.length || Crc32c(bytes) != header.payload_crc) {
    return absl::DataLossError("control frame: the payload's checksum is wrong");
  }
  ControlMessage message;
  message.payload_ = std::move(payload);
  const kj::ArrayPtr<const capnp::word> words(reinterpret_cast<const capnp::word*>(message.payload_.data()),
                                              message.payload_.size());
  FERRITE_RETURN_IF_ERROR(Guard([&] {
    message.reader_ = std::make_unique<capnp::FlatArrayMessageReader>(words, Limits(message.payload_.size()));
    message.which_ = message.reader_->getRoot<stream::Control>().which();
    return absl::OkStatus();
  }));
  return message;
}

absl::Status ControlMessage::Read(absl::FunctionRef<absl::Status(stream::Control::Reader)> use) const {
  return Guard([&] { return use(reader_->getRoot<stream::Control>()); });
}

std::vector<uint8_t> EncodeControl(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  const kj::ArrayPtr<const kj::byte> payload = words.asBytes();
  std::vector<uint8_t> frame(kControlHeaderBytes + payload.size());
  std::copy(payload.begin(), payload.end(), frame.begin() + kControlHeaderBytes);
  PutLittle<uint32_t>(&frame[kMarkAt], kMark);
  PutLittle<uint32_t>(&frame[kLengthAt], static_cast<uint32_t>(payload.size()));
  PutLittle<uint32_t>(&frame[kPayloadCrcAt], Crc32c({payload.begin(), payload.size()}));
  PutLittle<uint32_t>(&frame[kCrcAt], Crc32c({frame.data(), kCrcAt}));
  return frame;
}

}  // namespace ferrite::migration
