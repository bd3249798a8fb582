// What a side of a move shows to prove that it is of it.
#ifndef FERRITE_MIGRATION_SESSION_CREDENTIALS_H_
#define FERRITE_MIGRATION_SESSION_CREDENTIALS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/secret/move_secret.h"

namespace ferrite::migration {

// The secret of a move, and the control connection over which its sides talk. One that was made of nothing proves and
// believes nothing.
//
// Threads: const methods from any, while nobody is in another one.
class Credentials {
 public:
  Credentials() = default;
  // What was agreed on over a control connection, with the nonces of its HELLO and, as it is bound to the connection,
  // of its WELCOME. `parties`: as whom its ends know each other (ControlChannel::parties()).
  Credentials(MoveSecret secret, const Nonce& source, const Nonce& destination, std::string parties = "")
      : secret_(std::move(secret)),
        parties_(std::move(parties)),
        control_{.role = static_cast<uint8_t>(ChannelRole::kControl), .source = source, .destination = destination} {}

  // From here on the sides talk over the connection of kRecover that `proof` was for, and know each other by that.
  void SetControl(const ChannelProof& proof);
  // Of the control connection: this side's digest, and whether the other one's is right (PERMISSION_DENIED).
  absl::StatusOr<Digest> Prove(Claim claim, uint64_t epoch) const;
  absl::Status Check(Claim claim, uint64_t epoch, const Digest& digest) const;

  // Of another connection: the source's proof, and whether there is one, and it is right (PERMISSION_DENIED). Its epoch
  // is what it says, and still to be looked at. A page or urgent connection is between those whom the control
  // connection is between: a certificate alone does not make it one of the move, nor the secret with another one.
  absl::StatusOr<ChannelProof> ProveChannel(const Preamble& preamble, uint64_t epoch, const Nonce& challenge) const;
  absl::Status CheckChannel(const Preamble& preamble, const std::optional<ChannelProof>& proof) const;

 private:
  MoveSecret secret_;
  std::string parties_;
  Statement control_;  // but for claim and epoch
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SESSION_CREDENTIALS_H_
