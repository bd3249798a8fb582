// Control messages as bytes: a 16-byte header, then one Cap'n Proto message (docs/wire_format.md, "Control frames").
#ifndef FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_
#define FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/stream.capnp.h"

namespace ferrite::migration {

inline constexpr size_t kControlHeaderBytes = 16;
// The largest control message: a device package of 32 vCPUs takes some hundred KiB.
inline constexpr uint32_t kMaxControlBytes = 64 << 20;
// The largest one of a source whose machine was not accepted: a MACHINE with all that a machine can have takes some
// hundred KiB, most of which are paths.
inline constexpr uint32_t kMaxGreetingBytes = 256 << 10;
// Ranges in one DISCARD or MISSING, as proto/stream.capnp says.
inline constexpr size_t kMaxRanges = 4096;

// The payload's length in an encoded header. DATA_LOSS for a wrong mark or checksum, RESOURCE_EXHAUSTED for a length
// above `most`: checked before anything is allocated.
struct ControlHeader {
  uint32_t length = 0;
  uint32_t payload_crc = 0;
};
absl::StatusOr<ControlHeader> DecodeControlHeader(std::span<const uint8_t, kControlHeaderBytes> bytes,
                                                  uint32_t most = kMaxControlBytes);

// One control message, owned with the bytes that it was read from.
class ControlMessage {
 public:
  // Takes the payload of a frame and checks its checksum and segment table.
  static absl::StatusOr<ControlMessage> Parse(const ControlHeader& header, std::vector<uint64_t> payload);

  // Which member of the union it holds; INVALID and values past the last known one are for the caller to
  // refuse.
  stream::Control::Which which() const { return which_; }
  // Of the payload.
  size_t bytes() const { return payload_.size() * sizeof(uint64_t); }

  // Calls `use` with the message and returns what it returns, or INVALID_ARGUMENT when a pointer in the message leads
  // nowhere: nothing outside of the payload is ever read, and the work is bounded.
  absl::Status Read(absl::FunctionRef<absl::Status(stream::Control::Reader)> use) const;

 private:
  std::vector<uint64_t> payload_;
  stream::Control::Which which_ = stream::Control::INVALID;
  std::unique_ptr<capnp::FlatArrayMessageReader> reader_;
};

// A whole frame, header and payload.
std::vector<uint8_t> EncodeControl(capnp::MessageBuilder& message);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_
