#include "migration/protocol/crc32c.h"

#include <nmmintrin.h>

#include <cstring>

namespace ferrite::migration {

// The package is checked while the guest stands still, so the instruction is worth having; whatever runs KVM has it.
__attribute__((target("sse4.2"))) uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc) {
  uint64_t state = ~crc;
  size_t i = 0;
  for (; i + sizeof(uint64_t) <= bytes.size(); i += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    state = _mm_crc32_u64(state, word);
  }
  auto narrow = static_cast<uint32_t>(state);
  for (; i < bytes.size(); ++i) {
    narrow = _mm_crc32_u8(narrow, bytes[i]);
  }
  return ~narrow;
}

}  // namespace ferrite::migration
