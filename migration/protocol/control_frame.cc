#include "migration/protocol/control_frame.h"

#include "absl/strings/str_cat.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

constexpr uint32_t kMark = 0x4c544346;  // "FCTL"
constexpr size_t kMarkAt = 0;           // u32
constexpr size_t kLengthAt = 4;         // u32, a multiple of 8
constexpr size_t kPayloadCrcAt = 8;     // u32
constexpr size_t kCrcAt = 12;           // u32: CRC-32C of bytes 0 to 11

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

absl::Status CheckControlPayload(const ControlHeader& header, std::span<const uint8_t> payload) {
  if (payload.size() != header.length || Crc32c(payload) != header.payload_crc) {
    return absl::DataLossError("control frame: the payload's checksum is wrong");
  }
  return absl::OkStatus();
}

void SealControlFrame(std::span<uint8_t> frame) {
  const std::span<const uint8_t> payload = frame.subspan(kControlHeaderBytes);
  PutLittle<uint32_t>(&frame[kMarkAt], kMark);
  PutLittle<uint32_t>(&frame[kLengthAt], static_cast<uint32_t>(payload.size()));
  PutLittle<uint32_t>(&frame[kPayloadCrcAt], Crc32c(payload));
  PutLittle<uint32_t>(&frame[kCrcAt], Crc32c(frame.first(kCrcAt)));
}

}  // namespace ferrite::migration
