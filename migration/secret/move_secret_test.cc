#include "migration/secret/move_secret.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <utility>

namespace ferrite::migration {
namespace {

using enum KeyExchange::Side;

constexpr MoveId kId = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
constexpr MoveId kOtherId = {2};

KeyExchange Make(KeyExchange::Side side) { return *KeyExchange::Create(side); }

MoveSecret Agreed(const KeyExchange& ours, const KeyExchange& theirs, const MoveId& id = kId) {
  return *ours.Agree(theirs.key(), theirs.nonce(), id);
}

const Statement kStatement{
    .claim = Claim::kChannel, .role = 1, .index = 2, .epoch = 3, .source = {4}, .destination = {5}};

bool Agree(const MoveSecret& one, const MoveSecret& other) {
  return other.Check(kStatement, *one.Prove(kStatement)).ok();
}

TEST(KeyExchangeTest, BothSidesHaveTheSameSecret) {
  const KeyExchange source = Make(kSource);
  const KeyExchange destination = Make(kDestination);
  const MoveSecret here = Agreed(source, destination);
  const MoveSecret there = Agreed(destination, source);
  EXPECT_TRUE(Agree(here, there));
  EXPECT_TRUE(Agree(there, here));
}

// All that was said in clear, with keys of one's own.
TEST(KeyExchangeTest, WhoOnlyListensHasAnother) {
  const KeyExchange source = Make(kSource);
  const KeyExchange destination = Make(kDestination);
  const MoveSecret there = Agreed(destination, source);
  EXPECT_FALSE(Agree(*Make(kSource).Agree(destination.key(), destination.nonce(), kId), there));
  EXPECT_FALSE(Agree(*Make(kDestination).Agree(source.key(), source.nonce(), kId), there));
}

// What a source said once gives another secret to each destination, and the same one with each nonce of its.
TEST(KeyExchangeTest, WhatWasRecordedGivesAnotherSecret) {
  const KeyExchange source = Make(kSource);
  const KeyExchange first = Make(kDestination);
  const MoveSecret recorded = Agreed(source, first);
  EXPECT_FALSE(Agree(recorded, Agreed(Make(kDestination), source)));
  EXPECT_FALSE(Agree(recorded, *first.Agree(source.key(), Nonce{9}, kId)));
}

TEST(KeyExchangeTest, BothSidesMeanTheSameMoveAndTakeTheirParts) {
  const KeyExchange source = Make(kSource);
  const KeyExchange destination = Make(kDestination);
  EXPECT_FALSE(Agree(Agreed(source, destination), Agreed(destination, source, kOtherId)));
  const KeyExchange another = Make(kSource);
  EXPECT_FALSE(Agree(Agreed(source, another), Agreed(another, source)));
}

// Points of small order: the secret would be known to everybody.
TEST(KeyExchangeTest, KeyThatGivesNoSecretIsRefused) {
  for (const PublicKey& key : {PublicKey{0}, PublicKey{1}}) {
    EXPECT_EQ(Make(kSource).Agree(key, Nonce{1}, kId).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(KeyExchangeTest, NothingIsUsedTwice) {
  const KeyExchange one = Make(kSource);
  const KeyExchange other = Make(kSource);
  EXPECT_NE(one.key(), other.key());
  EXPECT_NE(one.nonce(), other.nonce());
  EXPECT_NE(*MakeNonce(), *MakeNonce());
}

struct Change {
  const char* name;
  std::function<void(Statement&)> make;
};

class ProofTest : public testing::TestWithParam<Change> {
 protected:
  const KeyExchange source_ = Make(kSource);
  const KeyExchange destination_ = Make(kDestination);
  const MoveSecret secret_ = Agreed(source_, destination_);
};

TEST_P(ProofTest, IsWorthNothingElsewhere) {
  const Digest digest = *secret_.Prove(kStatement);
  EXPECT_TRUE(secret_.Check(kStatement, digest).ok());
  Statement other = kStatement;
  GetParam().make(other);
  EXPECT_EQ(secret_.Check(other, digest).code(), absl::StatusCode::kPermissionDenied);
}

INSTANTIATE_TEST_SUITE_P(
    All, ProofTest,
    testing::Values(Change{"WrongClaim", [](Statement& s) { s.claim = Claim::kOpened; }},
                    Change{"WrongRole", [](Statement& s) { s.role = 2; }},
                    Change{"WrongIndex", [](Statement& s) { s.index = 0x0200; }},
                    Change{"WrongEpoch", [](Statement& s) { s.epoch = 4; }},
                    Change{"EpochOfManyBytes", [](Statement& s) { s.epoch |= uint64_t{1} << 63; }},
                    Change{"ReplayedToAnotherDestinationsNonce", [](Statement& s) { s.destination[31] = 1; }},
                    Change{"ReplayedWithAnotherSourcesNonce", [](Statement& s) { s.source[31] = 1; }},
                    // What one side said is sent back to it.
                    Change{"Reflected", [](Statement& s) { std::swap(s.source, s.destination); }},
                    Change{"ReflectedAsAnAnswer", [](Statement& s) { s.claim = Claim::kGranted; }}),
    [](const testing::TestParamInfo<Change>& info) { return info.param.name; });

TEST(WrongDigestTest, IsRefusedInEachBit) {
  const KeyExchange source = Make(kSource);
  const MoveSecret secret = Agreed(source, Make(kDestination));
  const Digest right = *secret.Prove(kStatement);
  for (size_t bit = 0; bit < 8 * right.size(); ++bit) {
    Digest wrong = right;
    wrong[bit / 8] = static_cast<uint8_t>(wrong[bit / 8] ^ (1U << (bit % 8)));
    EXPECT_FALSE(secret.Check(kStatement, wrong).ok()) << bit;
  }
  EXPECT_FALSE(secret.Check(kStatement, Digest{}).ok());
}

TEST(MoveSecretTest, WithoutAKeyProvesAndChecksNothing) {
  MoveSecret secret = Agreed(Make(kSource), Make(kDestination));
  const Digest digest = *secret.Prove(kStatement);
  const MoveSecret moved = std::move(secret);
  EXPECT_TRUE(moved.Check(kStatement, digest).ok());
  EXPECT_FALSE(static_cast<bool>(secret));  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(secret.Prove(kStatement).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(secret.Check(kStatement, digest).ok());
  EXPECT_FALSE(MoveSecret().Check(kStatement, Digest{}).ok());
}

// Also when it is moved from: no copy stays behind.
TEST(MoveSecretTest, IsWiped) {
  alignas(MoveSecret) std::array<uint8_t, sizeof(MoveSecret)> place{};
  const auto is_clean = [&] { return std::ranges::all_of(place, [](uint8_t byte) { return byte == 0; }); };
  auto* const secret = new (place.data()) MoveSecret(Agreed(Make(kSource), Make(kDestination)));
  EXPECT_FALSE(is_clean());
  const MoveSecret moved = std::move(*secret);
  EXPECT_TRUE(is_clean());
  *secret = Agreed(Make(kSource), Make(kDestination));
  EXPECT_FALSE(is_clean());
  secret->~MoveSecret();
  EXPECT_TRUE(is_clean());
}

}  // namespace
}  // namespace ferrite::migration
