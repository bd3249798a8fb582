// Who brings a machine proves that it is the one that was welcomed.
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "migration/protocol/messages.h"
#include "migration/secret/move_secret.h"
#include "migration/session/greeter.h"
#include "migration/session/greeter_rig.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/scripted_peer.h"

namespace ferrite::migration {
namespace {

constexpr char kNoProof[] = "MACHINE: it does not prove that it is of this move";

class GreeterProofTest : public testing::Test {
 protected:
  std::optional<Greeter::Chosen> Look() {
    EXPECT_TRUE(news_.WaitFor(absl::Seconds(30)));
    return rig_.greeter().Look();
  }

  TimedNotification news_;
  GreeterRig rig_{{.on_news = [this] { news_.Notify(); }}};
};

TEST_F(GreeterProofTest, TheChosenSharesTheSecret) {
  const auto source = rig_.ComeAndBeWelcomed();
  rig_.SayMachine(*source, {});
  const auto chosen = Look();
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(rig_.agreement(*source).credentials.Check(Claim::kAccept, 0, *chosen->credentials.Prove(Claim::kAccept, 0)),
            absl::OkStatus());
}

// What a source and another destination said, once more: this one has another key.
TEST_F(GreeterProofTest, WhatWasRecordedBringsNoMachine) {
  std::vector<uint8_t> hello;
  std::vector<uint8_t> machine;
  {
    GreeterRig other;
    const auto source = other.ComeAndBeWelcomed();
    const ScriptedAgreement& agreement = other.agreement(*source);
    hello = Encode(message::Hello{.move_id = kScriptedMove,
                                  .versions = kOurVersions,
                                  .page_channels = 1,
                                  .urgent_channels = 1,
                                  .key = agreement.exchange->key(),
                                  .nonce = agreement.exchange->nonce()});
    machine = Encode(message::Machine{.digest = *agreement.credentials.Prove(Claim::kMachine, 0)});
  }
  const auto replayer = rig_.Come();
  ASSERT_TRUE(replayer->WriteAll(hello).ok());
  EXPECT_EQ(Hear(*replayer), "WELCOME");
  ASSERT_TRUE(replayer->WriteAll(machine).ok());
  EXPECT_EQ(Hear(*replayer), kNoProof);
  EXPECT_FALSE(Look().has_value());
  EXPECT_TRUE(absl::StrContains(rig_.log().text(), kNoProof)) << rig_.log().text();
}

TEST_F(GreeterProofTest, WhoProvesNothingBringsNoMachine) {
  const auto stranger = rig_.ComeAndBeWelcomed();
  ASSERT_TRUE(SendControl(*stranger, message::Machine{}).ok());
  EXPECT_EQ(Hear(*stranger), kNoProof);
  EXPECT_FALSE(Look().has_value());
}

// With a key of zeroes anybody would know the secret.
TEST_F(GreeterProofTest, KeyThatGivesNoSecretIsNotWelcomed) {
  const auto stranger = rig_.Come();
  ASSERT_TRUE(
      SendControl(
          *stranger,
          message::Hello{.move_id = kScriptedMove, .versions = kOurVersions, .page_channels = 1, .urgent_channels = 1})
          .ok());
  EXPECT_EQ(Hear(*stranger), "agree on a secret: the other side's key gives none");
  EXPECT_FALSE(Look().has_value());
}

}  // namespace
}  // namespace ferrite::migration
