// Control frames as no encoder of ours writes them, and as none of our decoders reads them: for scripted peers.
#ifndef FERRITE_TESTS_FAKES_RAW_CONTROL_H_
#define FERRITE_TESTS_FAKES_RAW_CONTROL_H_

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "migration/protocol/control_frame.h"
#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/stream.capnp.h"

namespace ferrite::migration {

// A whole frame with whatever `message` holds.
inline std::vector<uint8_t> EncodeControl(capnp::MessageBuilder& message) {
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(message);
  std::vector<uint8_t> frame(kControlHeaderBytes + words.asBytes().size());
  std::copy(words.asBytes().begin(), words.asBytes().end(), frame.begin() + kControlHeaderBytes);
  SealControlFrame(frame);
  return frame;
}

// A whole frame of what the encoder of ours cannot say.
inline std::vector<uint8_t> EncodeRaw(const std::function<void(stream::Control::Builder)>& fill) {
  capnp::MallocMessageBuilder message;
  fill(message.initRoot<stream::Control>());
  return EncodeControl(message);
}

// What the payload of a whole frame holds, if its checksums are right.
inline absl::StatusOr<Message> DecodeFrame(std::span<const uint8_t> frame) {
  const auto header = DecodeControlHeader(frame.first<kControlHeaderBytes>());
  if (!header.ok()) {
    return header.status();
  }
  const std::span<const uint8_t> bytes = frame.subspan(kControlHeaderBytes);
  if (absl::Status status = CheckControlPayload(*header, bytes); !status.ok()) {
    return status;
  }
  std::vector<uint64_t> payload(bytes.size() / sizeof(uint64_t));
  std::copy_n(bytes.begin(), payload.size() * sizeof(uint64_t), reinterpret_cast<uint8_t*>(payload.data()));
  return Decode(payload);
}

// Announces `length` bytes, with a checksum that fits.
inline std::vector<uint8_t> ControlHeaderOf(uint32_t length) {
  std::vector<uint8_t> header = Encode(message::Ping{});
  header.resize(kControlHeaderBytes);
  PutLittle<uint32_t>(&header[4], length);
  PutLittle<uint32_t>(&header[12], Crc32c(std::span<const uint8_t>(header).first(12)));
  return header;
}

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_RAW_CONTROL_H_
