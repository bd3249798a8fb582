#ifndef FERRITE_MIGRATION_API_MOVE_ID_H_
#define FERRITE_MIGRATION_API_MOVE_ID_H_

#include <array>
#include <cstdint>

namespace ferrite::migration {

// Identifies one move: random, made by the source, and no secret. Who joins the move's connections proves by its secret
// that they belong to it (migration/secret/move_secret.h).
using MoveId = std::array<uint8_t, 16>;

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_API_MOVE_ID_H_
