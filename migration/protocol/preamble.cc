#include "migration/protocol/preamble.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

constexpr std::array<uint8_t, 8> kMagic = {'F', 'E', 'R', 'R', 'I', 'T', 'E', '\n'};
constexpr size_t kLowestVersion = 8;  // u16
constexpr size_t kVersion = 10;       // u16
constexpr size_t kRole = 12;          // u8
constexpr size_t kLanes = 13;         // u8: 1 where lanes are wanted, 0
constexpr size_t kIndex = 14;         // u16
constexpr size_t kMoveId = 16;        // 16 bytes

}  // namespace

std::array<uint8_t, kPreambleBytes> EncodePreamble(const Preamble& preamble) {
  std::array<uint8_t, kPreambleBytes> out{};
  std::copy(kMagic.begin(), kMagic.end(), out.begin());
  PutLittle<uint16_t>(&out[kLowestVersion], preamble.lowest_version);
  PutLittle<uint16_t>(&out[kVersion], preamble.version);
  out[kRole] = static_cast<uint8_t>(preamble.role);
  out[kLanes] = preamble.lanes ? 1 : 0;
  PutLittle<uint16_t>(&out[kIndex], preamble.index);
  std::copy(preamble.move_id.begin(), preamble.move_id.end(), out.begin() + kMoveId);
  return out;
}

absl::StatusOr<Preamble> DecodePreamble(std::span<const uint8_t, kPreambleBytes> bytes) {
  if (!std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) {
    const bool is_tls = bytes[0] == 0x16 && bytes[1] == 3;  // a record of a handshake: RFC 8446, 5.1
    return absl::InvalidArgumentError(is_tls ? "the peer speaks TLS, and this side plain"
                                             : "the peer does not speak ferrite's move protocol");
  }
  if (bytes[kRole] > static_cast<uint8_t>(ChannelRole::kRecover) || bytes[kLanes] > 1) {
    return absl::InvalidArgumentError(absl::StrCat("preamble: unknown channel role ", bytes[kRole]));
  }
  Preamble preamble;
  preamble.lanes = bytes[kLanes] == 1;
  preamble.lowest_version = GetLittle<uint16_t>(&bytes[kLowestVersion]);
  preamble.version = GetLittle<uint16_t>(&bytes[kVersion]);
  if (preamble.lowest_version > preamble.version) {
    return absl::InvalidArgumentError("preamble: the lowest version is above the newest");
  }
  preamble.role = static_cast<ChannelRole>(bytes[kRole]);
  if (preamble.lanes && HasControlFrames(preamble.role)) {
    return absl::InvalidArgumentError("preamble: lanes beside a control channel");
  }
  preamble.index = GetLittle<uint16_t>(&bytes[kIndex]);
  std::copy_n(bytes.begin() + kMoveId, preamble.move_id.size(), preamble.move_id.begin());
  return preamble;
}

}  // namespace ferrite::migration
