// Cap'n Proto messages inside of a move's own messages: bytes that a stranger may have sent.
#ifndef FERRITE_VMM_MOVE_MESSAGE_BYTES_H_
#define FERRITE_VMM_MOVE_MESSAGE_BYTES_H_

#include <capnp/message.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// Unpacked, in the standard stream framing.
std::vector<uint8_t> EncodeBytes(capnp::MessageBuilder& message);

// Calls `use` with the message that `bytes` holds and returns what it returns; INVALID_ARGUMENT when it is none, also
// when that comes to light only while `use` reads. `what` it is: for the error. A message that makes much of little is
// refused: `reads` of all of it are enough for `use`.
absl::Status DecodeBytes(std::span<const uint8_t> bytes, absl::string_view what, uint64_t reads,
                         absl::FunctionRef<absl::Status(capnp::MessageReader&)> use);

}  // namespace ferrite

#endif  // FERRITE_VMM_MOVE_MESSAGE_BYTES_H_
