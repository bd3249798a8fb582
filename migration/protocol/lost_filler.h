// What stands in a frame for a page that was lost while it left (docs/wire_format.md, "Lost pages").
#ifndef FERRITE_MIGRATION_PROTOCOL_LOST_FILLER_H_
#define FERRITE_MIGRATION_PROTOCOL_LOST_FILLER_H_

#include <cstdint>
#include <span>

namespace ferrite::migration {

// 4096 bytes. What a page has from an offset on stands at that offset.
std::span<const uint8_t> LostFiller();

// Whether the 4096 bytes of `page` are that. With a sum that is not theirs the page is lost.
bool IsLostFiller(std::span<const uint8_t> page);

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_PROTOCOL_LOST_FILLER_H_
