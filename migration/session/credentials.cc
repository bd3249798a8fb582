#include "migration/session/credentials.h"

#include "base/status.h"

namespace ferrite::migration {
namespace {

Statement With(Statement statement, Claim claim, uint64_t epoch) {
  statement.claim = claim;
  statement.epoch = epoch;
  return statement;
}

Statement OfChannel(const Preamble& preamble, const ChannelProof& proof) {
  return {.claim = Claim::kChannel,
          .role = static_cast<uint8_t>(preamble.role),
          .index = preamble.index,
          .epoch = proof.epoch,
          .source = proof.source,
          .destination = proof.destination};
}

}  // namespace

void Credentials::SetControl(const ChannelProof& proof) {
  control_ = {
      .role = static_cast<uint8_t>(ChannelRole::kRecover), .source = proof.source, .destination = proof.destination};
  parties_ = proof.parties;
}

absl::StatusOr<Digest> Credentials::Prove(Claim claim, uint64_t epoch) const {
  return secret_.Prove(With(control_, claim, epoch));
}

absl::Status Credentials::Check(Claim claim, uint64_t epoch, const Digest& digest) const {
  return secret_.Check(With(control_, claim, epoch), digest);
}

absl::StatusOr<ChannelProof> Credentials::ProveChannel(const Preamble& preamble, uint64_t epoch,
                                                       const Nonce& challenge) const {
  ChannelProof proof{.epoch = epoch, .destination = challenge};
  FERRITE_ASSIGN_OR_RETURN(proof.source, MakeNonce());
  FERRITE_ASSIGN_OR_RETURN(proof.digest, secret_.Prove(OfChannel(preamble, proof)));
  return proof;
}

absl::Status Credentials::CheckChannel(const Preamble& preamble, const std::optional<ChannelProof>& proof) const {
  const absl::Status status = proof.has_value()
                                  ? secret_.Check(OfChannel(preamble, *proof), proof->digest)
                                  : absl::PermissionDeniedError("it was not asked whether it is of this move");
  if (absl::IsPermissionDenied(status)) {
    return absl::PermissionDeniedError("it does not belong to this move");
  }
  FERRITE_RETURN_IF_ERROR(status);
  // A certificate may be renewed before a recovery.
  return preamble.role == ChannelRole::kRecover || proof->parties == parties_
             ? absl::OkStatus()
             : absl::PermissionDeniedError("it has another certificate or key than the control connection of its move");
}

}  // namespace ferrite::migration
