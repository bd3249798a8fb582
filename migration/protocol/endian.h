// Explicit little endian, whatever the host is.
#ifndef FERRITE_MIGRATION_PROTOCOL_ENDIAN_H_
#define FERRITE_MIGRATION_PROTOCOL_ENDIAN_H_

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace ferrite::migration {

template <std::unsigned_integral T>
constexpr void PutLittle(uint8_t* at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    at[i] = static_cast<uint8_t>(value >> (8 * i));
  }
}

template <std::unsigned_integral T>
constexpr T GetLittle(const uint8_t* at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(value | static_cast<T>(at[i]) << (8 * i));
  }
  return value;
}

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_ENDIAN_H_
