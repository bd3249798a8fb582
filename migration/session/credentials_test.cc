#include "migration/session/credentials.h"

#include <gtest/gtest.h>

#include <optional>

namespace ferrite::migration {
namespace {

constexpr MoveId kId = {1, 2, 3};
constexpr Preamble kPage{.lowest_version = 2, .version = 2, .role = ChannelRole::kPage, .index = 1, .move_id = kId};

struct Sides {
  Credentials source, destination;
};

Sides Agree() {
  const KeyExchange source = *KeyExchange::Create(KeyExchange::Side::kSource);
  const KeyExchange destination = *KeyExchange::Create(KeyExchange::Side::kDestination);
  return {.source = {*source.Agree(destination.key(), destination.nonce(), kId), source.nonce(), destination.nonce()},
          .destination = {*destination.Agree(source.key(), source.nonce(), kId), source.nonce(), destination.nonce()}};
}

TEST(CredentialsTest, WhatIsSaidOverTheControlConnectionIsBelievedOfWhoSharesTheSecret) {
  const Sides sides = Agree();
  const Digest digest = *sides.source.Prove(Claim::kMachine, 0);
  EXPECT_EQ(sides.destination.Check(Claim::kMachine, 0, digest), absl::OkStatus());
  EXPECT_TRUE(absl::IsPermissionDenied(sides.destination.Check(Claim::kAccept, 0, digest)));
  EXPECT_TRUE(absl::IsPermissionDenied(sides.destination.Check(Claim::kMachine, 1, digest)));
  EXPECT_TRUE(absl::IsPermissionDenied(Agree().destination.Check(Claim::kMachine, 0, digest)));
}

TEST(CredentialsTest, ProofIsForOneConnection) {
  const Sides sides = Agree();
  const std::optional<ChannelProof> proof = *sides.source.ProveChannel(kPage, 3, Nonce{9});
  EXPECT_EQ(proof->epoch, 3u);
  EXPECT_EQ(proof->destination, Nonce{9});
  EXPECT_EQ(sides.destination.CheckChannel(kPage, proof), absl::OkStatus());

  const absl::Status stranger = absl::PermissionDeniedError("it does not belong to this move");
  EXPECT_EQ(sides.destination.CheckChannel(kPage, std::nullopt), stranger);
  EXPECT_EQ(Agree().destination.CheckChannel(kPage, proof), stranger);
  Preamble other = kPage;
  other.role = ChannelRole::kUrgent;
  EXPECT_EQ(sides.destination.CheckChannel(other, proof), stranger);
  other = kPage;
  other.index = 2;
  EXPECT_EQ(sides.destination.CheckChannel(other, proof), stranger);
  auto wrong = proof;
  wrong->epoch = 4;
  EXPECT_EQ(sides.destination.CheckChannel(kPage, wrong), stranger);
  // Played again, it meets another challenge.
  wrong = proof;
  wrong->destination = Nonce{8};
  EXPECT_EQ(sides.destination.CheckChannel(kPage, wrong), stranger);
}

// The secret alone is not enough where the sides have certificates: nor is a certificate, with another one's secret.
TEST(CredentialsTest, PageConnectionIsBetweenThoseOfTheControlConnection) {
  const KeyExchange source = *KeyExchange::Create(KeyExchange::Side::kSource);
  const KeyExchange destination = *KeyExchange::Create(KeyExchange::Side::kDestination);
  const Credentials ours(*source.Agree(destination.key(), destination.nonce(), kId), source.nonce(),
                         destination.nonce(), "one two");
  Credentials theirs(*destination.Agree(source.key(), source.nonce(), kId), source.nonce(), destination.nonce(),
                     "one two");
  std::optional<ChannelProof> proof = *ours.ProveChannel(kPage, 3, Nonce{9});
  EXPECT_TRUE(absl::IsPermissionDenied(theirs.CheckChannel(kPage, proof)));
  proof->parties = "one three";
  EXPECT_TRUE(absl::IsPermissionDenied(theirs.CheckChannel(kPage, proof)));
  proof->parties = "one two";
  EXPECT_EQ(theirs.CheckChannel(kPage, proof), absl::OkStatus());
  // A renewed certificate may come with a recovery, and is that of all connections from there on.
  const Preamble recover{.lowest_version = 2, .version = 2, .role = ChannelRole::kRecover, .move_id = kId};
  ChannelProof again = *ours.ProveChannel(recover, 3, Nonce{1});
  again.parties = "one three";
  ASSERT_EQ(theirs.CheckChannel(recover, again), absl::OkStatus());
  theirs.SetControl(again);
  EXPECT_TRUE(absl::IsPermissionDenied(theirs.CheckChannel(kPage, proof)));
  proof->parties = "one three";
  EXPECT_EQ(theirs.CheckChannel(kPage, proof), absl::OkStatus());
}

TEST(CredentialsTest, NoncesOfAProofAreFresh) {
  const Sides sides = Agree();
  EXPECT_NE(sides.source.ProveChannel(kPage, 3, Nonce{9})->source,
            sides.source.ProveChannel(kPage, 3, Nonce{9})->source);
}

// What was said over one control connection is worth nothing on the next one.
TEST(CredentialsTest, RecoveryHasNoncesOfItsOwn) {
  Sides sides = Agree();
  const Preamble recover{.lowest_version = 2, .version = 2, .role = ChannelRole::kRecover, .move_id = kId};
  const Digest before = *sides.destination.Prove(Claim::kGranted, 1);
  const ChannelProof first = *sides.source.ProveChannel(recover, 1, Nonce{1});
  sides.source.SetControl(first);
  EXPECT_TRUE(absl::IsPermissionDenied(sides.source.Check(Claim::kGranted, 1, before)));
  sides.destination.SetControl(first);
  const Digest then = *sides.destination.Prove(Claim::kGranted, 1);
  EXPECT_EQ(sides.source.Check(Claim::kGranted, 1, then), absl::OkStatus());
  EXPECT_TRUE(absl::IsPermissionDenied(sides.source.Check(Claim::kStanding, 1, then)));
  sides.source.SetControl(*sides.source.ProveChannel(recover, 1, Nonce{2}));
  EXPECT_TRUE(absl::IsPermissionDenied(sides.source.Check(Claim::kGranted, 1, then)));
}

TEST(CredentialsTest, OnesOfNothingProveAndBelieveNothing) {
  const Credentials none;
  EXPECT_FALSE(none.Prove(Claim::kMachine, 0).ok());
  EXPECT_FALSE(none.Check(Claim::kMachine, 0, Digest{}).ok());
  EXPECT_FALSE(none.ProveChannel(kPage, 0, Nonce{}).ok());
  EXPECT_FALSE(none.CheckChannel(kPage, ChannelProof{}).ok());
}

}  // namespace
}  // namespace ferrite::migration
