// A machine's saved state as the bytes that a move carries (docs/wire_format.md, PACKAGE version 1).
#ifndef FERRITE_VMM_MOVE_STATE_BLOB_H_
#define FERRITE_VMM_MOVE_STATE_BLOB_H_

#include <capnp/message.h>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "proto/state.capnp.h"

namespace ferrite {

// An unpacked Cap'n Proto message with a state.capnp Machine.
std::vector<uint8_t> EncodeState(capnp::MessageBuilder& message);

// Calls `use` with what `blob` holds; INVALID_ARGUMENT when it is no such message, also when that comes to light only
// while `use` reads.
absl::Status DecodeState(std::span<const uint8_t> blob, const std::function<absl::Status(state::Machine::Reader)>& use);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_STATE_BLOB_H_
