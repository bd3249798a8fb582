#include "migration/protocol/lanes.h"

#include <algorithm>

#include "migration/protocol/crc32c.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

// Offsets of the fields of a RemoteKey.
constexpr size_t kAddress = 0;  // u64
constexpr size_t kKey = 8;      // u32
constexpr size_t kGiven = 12;   // u32: 0 or 1

// And of Lanes.
constexpr size_t kPort = 0;          // u16
constexpr size_t kReasonLength = 2;  // u16
constexpr size_t kReserved = 4;      // u32, 0
constexpr size_t kToken = 8;         // 16 bytes
constexpr size_t kReason = 24;       // and zeroes behind it
constexpr size_t kLanesCrc = 252;    // u32: CRC-32C of what is before it
constexpr size_t kMostReason = kLanesCrc - kReason;

}  // namespace

std::array<uint8_t, kRemoteKeyBytes> EncodeRemoteKey(const RemoteKey& key) {
  std::array<uint8_t, kRemoteKeyBytes> out{};
  PutLittle<uint64_t>(&out[kAddress], key.address);
  PutLittle<uint32_t>(&out[kKey], key.key);
  PutLittle<uint32_t>(&out[kGiven], key.given ? 1 : 0);
  return out;
}

absl::StatusOr<RemoteKey> DecodeRemoteKey(std::span<const uint8_t, kRemoteKeyBytes> bytes) {
  const auto given = GetLittle<uint32_t>(&bytes[kGiven]);
  const RemoteKey key{
      .given = given == 1, .address = GetLittle<uint64_t>(&bytes[kAddress]), .key = GetLittle<uint32_t>(&bytes[kKey])};
  if (given > 1 || (!key.given && (key.address != 0 || key.key != 0))) {
    return absl::InvalidArgumentError("page frame: what is no key");
  }
  return key;
}

std::array<uint8_t, kLanesBytes> EncodeLanes(const Lanes& lanes) {
  std::array<uint8_t, kLanesBytes> out{};
  const size_t length = std::min(lanes.reason.size(), kMostReason);
  PutLittle<uint16_t>(&out[kPort], lanes.port);
  PutLittle<uint16_t>(&out[kReasonLength], static_cast<uint16_t>(length));
  std::copy(lanes.token.begin(), lanes.token.end(), &out[kToken]);
  std::copy_n(lanes.reason.begin(), length, &out[kReason]);
  PutLittle<uint32_t>(&out[kLanesCrc], Crc32c({out.data(), kLanesCrc}));
  return out;
}

absl::StatusOr<Lanes> DecodeLanes(std::span<const uint8_t, kLanesBytes> bytes) {
  if (GetLittle<uint32_t>(&bytes[kLanesCrc]) != Crc32c(bytes.first<kLanesCrc>())) {
    return absl::DataLossError("lanes: the answer's checksum is wrong");
  }
  const auto length = GetLittle<uint16_t>(&bytes[kReasonLength]);
  Lanes lanes{.port = GetLittle<uint16_t>(&bytes[kPort])};
  if (length > kMostReason || GetLittle<uint32_t>(&bytes[kReserved]) != 0 || (lanes.port == 0) != (length > 0)) {
    return absl::InvalidArgumentError("lanes: what is no answer");
  }
  std::copy_n(&bytes[kToken], lanes.token.size(), lanes.token.begin());
  lanes.reason.assign(reinterpret_cast<const char*>(&bytes[kReason]), length);
  return lanes;
}

}  // namespace ferrite::migration
