// The first 32 bytes of every connection of a move, from the source (docs/wire_format.md, "Preamble").
#ifndef FERRITE_MIGRATION_PROTOCOL_PREAMBLE_H_
#define FERRITE_MIGRATION_PROTOCOL_PREAMBLE_H_

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "migration/api/move_id.h"

namespace ferrite::migration {

inline constexpr size_t kPreambleBytes = 32;

// Page channels, and likewise urgent ones, that a source may open.
inline constexpr uint16_t kMaxChannels = 16;

enum class ChannelRole : uint8_t {
  kControl = 0,  // control frames both ways, from HELLO on; opened first
  kPage = 1,     // page frames to the destination
  kUrgent = 2,   // requests to the source, page frames to the destination
  kRecover = 3,  // control frames both ways, from RECOVER on
};

constexpr bool HasControlFrames(ChannelRole role) {
  return role == ChannelRole::kControl || role == ChannelRole::kRecover;
}
// Whether who connects in this role has to prove that it belongs to the move (proof.h).
constexpr bool HasProof(ChannelRole role) { return role != ChannelRole::kControl; }

struct Preamble {
  uint16_t lowest_version = 0;
  uint16_t version = 0;
  ChannelRole role = ChannelRole::kControl;
  uint16_t index = 0;  // among the channels of the role
  MoveId move_id{};
  bool lanes = false;  // of a page or urgent channel: the source wants lanes beside it (lanes.h)

  bool operator==(const Preamble&) const = default;
};

std::array<uint8_t, kPreambleBytes> EncodePreamble(const Preamble& preamble);
// INVALID_ARGUMENT when these are not the first bytes of a ferrite move.
absl::StatusOr<Preamble> DecodePreamble(std::span<const uint8_t, kPreambleBytes> bytes);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_PREAMBLE_H_
