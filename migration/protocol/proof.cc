#include "migration/protocol/proof.h"

#include <algorithm>

#include "migration/protocol/endian.h"

namespace ferrite::migration {
namespace {

constexpr size_t kEpoch = 0;    // u64
constexpr size_t kSource = 8;   // 32 bytes
constexpr size_t kDigest = 40;  // 32 bytes

}  // namespace

std::array<uint8_t, kProofBytes> EncodeProof(const ChannelProof& proof) {
  std::array<uint8_t, kProofBytes> out{};
  PutLittle<uint64_t>(&out[kEpoch], proof.epoch);
  std::copy(proof.source.begin(), proof.source.end(), out.begin() + kSource);
  std::copy(proof.digest.begin(), proof.digest.end(), out.begin() + kDigest);
  return out;
}

ChannelProof DecodeProof(std::span<const uint8_t, kProofBytes> bytes, const Nonce& challenge) {
  ChannelProof proof{.epoch = GetLittle<uint64_t>(&bytes[kEpoch]), .destination = challenge};
  std::copy_n(bytes.begin() + kSource, proof.source.size(), proof.source.begin());
  std::copy_n(bytes.begin() + kDigest, proof.digest.size(), proof.digest.begin());
  return proof;
}

}  // namespace ferrite::migration
