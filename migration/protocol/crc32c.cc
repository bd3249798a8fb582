#include "migration/protocol/crc32c.h"

#include <nmmintrin.h>

#include <boost/crc.hpp>
#include <cstring>

namespace ferrite::migration {
namespace {

// The package is checked while the guest stands still, so the instruction is worth having.
__attribute__((target("sse4.2"))) uint32_t WithInstruction(std::span<const uint8_t> bytes, uint32_t crc) {
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

constexpr uint32_t Reflect(uint32_t value) {
  uint32_t out = 0;
  for (int bit = 0; bit < 32; ++bit) {
    out |= ((value >> bit) & 1) << (31 - bit);
  }
  return out;
}

uint32_t WithTable(std::span<const uint8_t> bytes, uint32_t crc) {
  // Boost wants the remainder unreflected and before the final inversion.
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> sum(Reflect(~crc));
  sum.process_bytes(bytes.data(), bytes.size());
  return sum.checksum();
}

}  // namespace

uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc) {
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  return has_instruction ? WithInstruction(bytes, crc) : WithTable(bytes, crc);
}

}  // namespace ferrite::migration
