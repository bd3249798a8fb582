// The secret of a move as version 2 has it, once more (docs/wire_format.md, "The secret of a move").
#ifndef FERRITE_TESTS_COMPAT_VERSION2_SECRET_H_
#define FERRITE_TESTS_COMPAT_VERSION2_SECRET_H_

#include <cstdint>

#include "tests/compat/version2_bytes.h"

namespace ferrite::version2 {

// From the kernel. A failure of what is in this file ends the process.
Bytes32 RandomBytes();

enum class Claim : uint8_t { kMachine = 1, kAccept = 2, kChannel = 3, kOpened = 4, kStanding = 5, kGranted = 6 };

// What a digest is over.
struct Statement {
  Claim claim = Claim::kMachine;
  Role role = Role::kControl;
  uint16_t index = 0;
  uint64_t epoch = 0;
  Bytes32 source{};
  Bytes32 destination{};
};
Bytes32 DigestOf(const Bytes32& secret, const Statement& statement);

// What both sides said in HELLO and WELCOME.
struct Greeting {
  MoveId move_id{};
  Bytes32 source_key{};
  Bytes32 source_nonce{};
  Bytes32 destination_key{};
  Bytes32 destination_nonce{};
};

// A private key of X25519.
Bytes32 PublicKeyOf(const Bytes32& private_key);
// `theirs` is the other side's public key, one of the greeting's.
Bytes32 SecretOf(const Bytes32& private_key, const Bytes32& theirs, const Greeting& greeting);

}  // namespace ferrite::version2

#endif  // FERRITE_TESTS_COMPAT_VERSION2_SECRET_H_
