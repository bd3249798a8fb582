// The secret of a move: both sides agree on it in setup, and prove by it afterwards that a connection is of the move.
#ifndef FERRITE_MIGRATION_SECRET_MOVE_SECRET_H_
#define FERRITE_MIGRATION_SECRET_MOVE_SECRET_H_

#include <array>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/api/move_id.h"
#include "migration/secret/proof_bytes.h"

namespace ferrite::migration {

// Random, from the kernel.
absl::StatusOr<Nonce> MakeNonce();

// What is said by a digest, and by whom: none of these can be taken for another one.
enum class Claim : uint8_t {
  kMachine = 1,   // → in setup, with MACHINE: whoever brings it said HELLO
  kAccept = 2,    // ← likewise, of WELCOME
  kChannel = 3,   // → over a further connection
  kOpened = 4,    // ← all further connections are here
  kStanding = 5,  // ← in a recovery: GRANT did not arrive
  kGranted = 6,   // ← likewise: it did
};

// What a digest is over. Both nonces are fresh for each connection: what was said on one is worth nothing on another.
struct Statement {
  Claim claim = Claim::kMachine;
  uint8_t role = 0;    // of the connection (ChannelRole)
  uint16_t index = 0;  // among those of the role
  uint64_t epoch = 0;  // of the last GRANT, 0 before it
  Nonce source{};
  Nonce destination{};
};

// A key that is wiped when it goes. One that was moved from, or never agreed on, proves nothing and checks nothing.
// Threads: const methods from any.
class MoveSecret {
 public:
  MoveSecret() = default;
  MoveSecret(MoveSecret&& other) noexcept { *this = std::move(other); }
  MoveSecret& operator=(MoveSecret&& other) noexcept;
  ~MoveSecret() { Wipe(); }

  explicit operator bool() const { return agreed_; }
  // FAILED_PRECONDITION without a key, RESOURCE_EXHAUSTED for want of memory.
  absl::StatusOr<Digest> Prove(const Statement& statement) const;
  // PERMISSION_DENIED unless `digest` is the one that Prove() makes; takes the same time whatever is wrong with it.
  absl::Status Check(const Statement& statement, const Digest& digest) const;

 private:
  friend class KeyExchange;
  void Wipe();

  std::array<uint8_t, 32> key_{};
  bool agreed_ = false;
};

// One side's part of the agreement (X25519, then HKDF-SHA256): made for one connection, used once.
class KeyExchange {
 public:
  enum class Side { kSource, kDestination };

  static absl::StatusOr<KeyExchange> Create(Side side);
  KeyExchange(KeyExchange&& other) noexcept;
  KeyExchange& operator=(KeyExchange&&) = delete;
  ~KeyExchange();

  // What the other side is to know.
  const PublicKey& key() const { return key_; }
  const Nonce& nonce() const { return nonce_; }
  // With what the other side said. INVALID_ARGUMENT for a key with which anybody would know the secret.
  absl::StatusOr<MoveSecret> Agree(const PublicKey& their_key, const Nonce& their_nonce, const MoveId& id) const;

 private:
  KeyExchange(Side side, void* pair, const PublicKey& key, const Nonce& nonce)
      : side_(side), pair_(pair), key_(key), nonce_(nonce) {}

  const Side side_;
  void* pair_;  // the library's, which wipes it
  const PublicKey key_;
  const Nonce nonce_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SECRET_MOVE_SECRET_H_
