#include "vmm/move/state_blob.h"

#include "vmm/move/message_bytes.h"

namespace ferrite {

std::vector<uint8_t> EncodeState(capnp::MessageBuilder& message) { return EncodeBytes(message); }

absl::Status DecodeState(std::span<const uint8_t> blob,
                         const std::function<absl::Status(state::Machine::Reader)>& use) {
  return DecodeBytes(blob, "state", /*reads=*/4,
                     [&](capnp::MessageReader& reader) { return use(reader.getRoot<state::Machine>()); });
}

}  // namespace ferrite
