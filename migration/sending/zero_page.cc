#include "migration/sending/zero_page.h"

#include <immintrin.h>

namespace ferrite::migration {
namespace {

constexpr uint64_t kPage = 4096;

__attribute__((target("avx2"))) bool IsZeroAvx2(const uint8_t* page) {
  const auto* at = reinterpret_cast<const __m256i*>(page);
  for (uint64_t i = 0; i < kPage / sizeof(__m256i); i += 8) {
    const __m256i a = _mm256_or_si256(_mm256_load_si256(at + i), _mm256_load_si256(at + i + 1));
    const __m256i b = _mm256_or_si256(_mm256_load_si256(at + i + 2), _mm256_load_si256(at + i + 3));
    const __m256i c = _mm256_or_si256(_mm256_load_si256(at + i + 4), _mm256_load_si256(at + i + 5));
    const __m256i d = _mm256_or_si256(_mm256_load_si256(at + i + 6), _mm256_load_si256(at + i + 7));
    const __m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
    if (_mm256_testz_si256(all, all) == 0) {
      return false;
    }
  }
  return true;
}

bool IsZeroSse2(const uint8_t* page) {
  const auto* at = reinterpret_cast<const __m128i*>(page);
  const __m128i zero = _mm_setzero_si128();
  for (uint64_t i = 0; i < kPage / sizeof(__m128i); i += 4) {
    const __m128i a = _mm_or_si128(_mm_load_si128(at + i), _mm_load_si128(at + i + 1));
    const __m128i b = _mm_or_si128(_mm_load_si128(at + i + 2), _mm_load_si128(at + i + 3));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_or_si128(a, b), zero)) != 0xffff) {
      return false;
    }
  }
  return true;
}

uint64_t WordAt(const uint8_t* page, uint64_t offset) {
  return *reinterpret_cast<const volatile uint64_t*>(page + offset);
}

}  // namespace

bool IsZeroPage(const uint8_t* page) {
  if ((WordAt(page, 0) | WordAt(page, kPage / 2) | WordAt(page, kPage - sizeof(uint64_t))) != 0) {
    return false;
  }
  static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
  return has_avx2 ? IsZeroAvx2(page) : IsZeroSse2(page);
}

}  // namespace ferrite::migration
