// SHA-256, by libmd: OpenSSL's library would cost every monitor half a MiB of relocated pages.
#ifndef FERRITE_BASE_SHA256_H_
#define FERRITE_BASE_SHA256_H_

#include <sha2.h>

#include <array>
#include <cstdint>
#include <span>

namespace ferrite {

using Sha256Digest = std::array<uint8_t, SHA256_DIGEST_LENGTH>;

// Of bytes that come in pieces.
class Sha256 {
 public:
  Sha256() { SHA256Init(&context_); }
  void Update(std::span<const uint8_t> bytes) { SHA256Update(&context_, bytes.data(), bytes.size()); }
  // Once, at the end.
  Sha256Digest Finish() {
    Sha256Digest digest;
    SHA256Final(digest.data(), &context_);
    return digest;
  }

 private:
  SHA2_CTX context_;
};

inline Sha256Digest Sha256Of(std::span<const uint8_t> bytes) {
  Sha256 hash;
  hash.Update(bytes);
  return hash.Finish();
}

}  // namespace ferrite

#endif  // FERRITE_BASE_SHA256_H_
