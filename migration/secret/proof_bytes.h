// What the two sides of a move tell each other to agree on a secret, and to prove that they have it, as bytes.
#ifndef FERRITE_MIGRATION_SECRET_PROOF_BYTES_H_
#define FERRITE_MIGRATION_SECRET_PROOF_BYTES_H_

#include <array>
#include <cstdint>

namespace ferrite::migration {

using PublicKey = std::array<uint8_t, 32>;  // of X25519
using Nonce = std::array<uint8_t, 32>;
using Digest = std::array<uint8_t, 32>;  // HMAC-SHA256

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SECRET_PROOF_BYTES_H_
