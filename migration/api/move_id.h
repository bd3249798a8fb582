#ifndef FERRITE_MIGRATION_API_MOVE_ID_H_
#define FERRITE_MIGRATION_API_MOVE_ID_H_

#include <array>
#include <cstdint>

namespace ferrite::migration {

// Identifies one move: random, made by the source. Whoever knows it may join the move's connections.
using MoveId = std::array<uint8_t, 16>;

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MOVE_ID_H_
