// How a further connection of a move proves that it belongs to it (docs/wire_format.md, "Challenge and proof").
#ifndef FERRITE_MIGRATION_PROTOCOL_PROOF_H_
#define FERRITE_MIGRATION_PROTOCOL_PROOF_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// The destination's nonce, as it is.
inline constexpr size_t kChallengeBytes = sizeof(Nonce);
inline constexpr size_t kProofBytes = 72;

// What the source answers, with the challenge that it answers, which is not sent back.
struct ChannelProof {
  uint64_t epoch = 0;   // of the last GRANT, 0 in setup
  Nonce source{};       // fresh
  Nonce destination{};  // the challenge
  Digest digest{};      // over these, the role and the index: Claim::kChannel
  // As whom the connection's ends know each other (Stream::parties()): no part of the bytes, for who took it.
  std::string parties;

  bool operator==(const ChannelProof&) const = default;
};

std::array<uint8_t, kProofBytes> EncodeProof(const ChannelProof& proof);
// Any bytes are one; whether it is right is for who has the secret.
ChannelProof DecodeProof(std::span<const uint8_t, kProofBytes> bytes, const Nonce& challenge);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_PROOF_H_
