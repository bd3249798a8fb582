// The checksums of a frame's pages (docs/wire_format.md, "Page frames").
#ifndef FERRITE_MIGRATION_PROTOCOL_PAGE_SUMS_H_
#define FERRITE_MIGRATION_PROTOCOL_PAGE_SUMS_H_

#include <cstdint>
#include <span>

namespace ferrite::migration {

// Sums are the CRC-32C of each page of 4 KiB of `pages`, as many as `sums` has room for. The bytes may change
// meanwhile: then the sum is that of neither.
void SumPages(std::span<const uint8_t> pages, std::span<uint32_t> sums);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_PAGE_SUMS_H_
