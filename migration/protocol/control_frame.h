// The 16 bytes before a control message (docs/wire_format.md, "Control frames"); messages.h has what follows.
#ifndef FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_
#define FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace ferrite::migration {

inline constexpr size_t kControlHeaderBytes = 16;
// The largest control message: a device package of 32 vCPUs takes some hundred KiB.
inline constexpr uint32_t kMaxControlBytes = 64 << 20;
// The largest one of a source whose machine was not accepted: a MACHINE with all that a machine can have takes some
// hundred KiB, most of which are paths.
inline constexpr uint32_t kMaxGreetingBytes = 256 << 10;
// The same of a destination that is looked for.
inline constexpr uint32_t kMaxStandingBytes = 4 << 20;

// The payload's length in an encoded header. DATA_LOSS for a wrong mark or checksum, RESOURCE_EXHAUSTED for a length
// above `most`: checked before anything is allocated.
struct ControlHeader {
  uint32_t length = 0;
  uint32_t payload_crc = 0;
};
absl::StatusOr<ControlHeader> DecodeControlHeader(std::span<const uint8_t, kControlHeaderBytes> bytes,
                                                  uint32_t most = kMaxControlBytes);

// DATA_LOSS unless `payload` is what the header announces.
absl::Status CheckControlPayload(const ControlHeader& header, std::span<const uint8_t> payload);

// Fills in the header of a frame, which is for the payload behind it.
void SealControlFrame(std::span<uint8_t> frame);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_CONTROL_FRAME_H_
