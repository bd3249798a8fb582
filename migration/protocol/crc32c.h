// CRC-32C (Castagnoli), as in RFC 3720 B.4: what guards frame headers and the device package.
#ifndef FERRITE_MIGRATION_PROTOCOL_CRC32C_H_
#define FERRITE_MIGRATION_PROTOCOL_CRC32C_H_

#include <cstdint>
#include <span>

namespace ferrite::migration {

// The checksum of `bytes`; `crc` is that of what came before them, 0 at the start.
uint32_t Crc32c(std::span<const uint8_t> bytes, uint32_t crc = 0);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_CRC32C_H_
