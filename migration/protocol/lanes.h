// What two ends say of the lanes beside a page or urgent channel: queue pairs, over which bytes go past the stream
// (docs/wire_format.md, "Lanes").
#ifndef FERRITE_MIGRATION_PROTOCOL_LANES_H_
#define FERRITE_MIGRATION_PROTOCOL_LANES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "migration/protocol/page_header.h"

namespace ferrite::migration {

// How memory of the other side is written or read: behind a kKey frame, and a readable kPages frame.
struct RemoteKey {
  bool given = false;  // else there is none, and will be none
  uint64_t address = 0;
  uint32_t key = 0;
  bool operator==(const RemoteKey&) const = default;
};

std::array<uint8_t, kRemoteKeyBytes> EncodeRemoteKey(const RemoteKey& key);
// INVALID_ARGUMENT for what is none.
absl::StatusOr<RemoteKey> DecodeRemoteKey(std::span<const uint8_t, kRemoteKeyBytes> bytes);

inline constexpr size_t kLanesBytes = 256;
using LaneToken = std::array<uint8_t, 16>;

// The destination's answer to a proof in whose preamble lanes were wanted.
struct Lanes {
  uint16_t port = 0;   // where it waits for the queue pairs; 0: it does not
  LaneToken token{};   // random, by which it knows them
  std::string reason;  // why it does not, for people: cut where it is too long
  bool operator==(const Lanes&) const = default;
};

std::array<uint8_t, kLanesBytes> EncodeLanes(const Lanes& lanes);
// DATA_LOSS for a wrong checksum, INVALID_ARGUMENT for what is no such answer. `reason` is the peer's.
absl::StatusOr<Lanes> DecodeLanes(std::span<const uint8_t, kLanesBytes> bytes);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_LANES_H_
