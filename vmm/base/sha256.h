// SHA-256 (FIPS 180-4). Our own: OpenSSL's library would cost every monitor half a MiB of relocated pages and a
// millisecond of its start (docs/specification.md), for a few files at the beginning of a move.
#ifndef FERRITE_VMM_BASE_SHA256_H_
#define FERRITE_VMM_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ferrite {

using Sha256Digest = std::array<uint8_t, 32>;

// Threads: one at a time.
class Sha256 {
 public:
  void Update(std::span<const uint8_t> bytes);
  // Of all that went into Update(). Called once, last.
  Sha256Digest Finish();

 private:
  static constexpr size_t kBlockBytes = 64;

  void Compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t bytes_ = 0;
  std::array<uint8_t, kBlockBytes> partial_ = {};  // the last bytes_ % kBlockBytes bytes
};

}  // namespace ferrite

#endif  // FERRITE_VMM_BASE_SHA256_H_
