// Who brings a machine proves that it is the one that was welcomed.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/time.h"
#include "base/timed_mutex.h"
#include "migration/channel/drop_log.h"
#include "migration/channel/socket/socket_stream.h"
#include "migration/channel/socket/stream_control.h"
#include "migration/protocol/messages.h"
#include "migration/secret/move_secret.h"
#include "migration/session/greeter.h"
#include "tests/fakes/scripted_agreement.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"

namespace ferrite::migration {
namespace {

constexpr char kNoProof[] = "MACHINE: it does not prove that it is of this move";

class GreeterProofTest : public testing::Test {
 protected:
  std::unique_ptr<Stream> Come() {
    auto ends = *MakeStreamPair();
    greeter_.Admit(std::make_unique<StreamControlChannel>(std::move(ends.first), host_.get().clock), "here",
                   kScriptedMove);
    return std::move(ends.second);
  }
  std::optional<Greeter::Chosen> Look() {
    EXPECT_TRUE(news_.WaitFor(absl::Seconds(30)));
    return greeter_.Look();
  }

  TimedNotification news_;
  const TestHost host_;
  DropLog drops_{host_.get()};
  Greeter greeter_{
      {.patience = absl::Hours(1)}, host_.get(), drops_, [this] { news_.Notify(); }, [](const absl::Status&) {}};
};

TEST_F(GreeterProofTest, TheChosenSharesTheSecret) {
  const auto source = Come();
  ScriptedAgreement agreement;
  SendHello(agreement, *source);
  HearWelcome(agreement, *source);
  SendMachine(agreement, *source, {});
  const auto chosen = Look();
  ASSERT_TRUE(chosen.has_value());
  EXPECT_EQ(agreement.credentials.Check(Claim::kAccept, 0, *chosen->credentials.Prove(Claim::kAccept, 0)),
            absl::OkStatus());
}

// What a source and another destination said, once more: this one has another key.
TEST_F(GreeterProofTest, WhatWasRecordedBringsNoMachine) {
  ScriptedAgreement agreement;
  std::vector<uint8_t> hello;
  std::vector<uint8_t> machine;
  {
    Greeter other(
        {.patience = absl::Hours(1)}, host_.get(), drops_, [] {}, [](const absl::Status&) {});
    auto ends = *MakeStreamPair();
    other.Admit(std::make_unique<StreamControlChannel>(std::move(ends.first), host_.get().clock), "here",
                kScriptedMove);
    SendHello(agreement, *ends.second);
    hello = Encode(message::Hello{.move_id = kScriptedMove,
                                  .versions = kOurVersions,
                                  .page_channels = 1,
                                  .urgent_channels = 1,
                                  .key = agreement.exchange->key(),
                                  .nonce = agreement.exchange->nonce()});
    HearWelcome(agreement, *ends.second);
    machine = Encode(message::Machine{.digest = *agreement.credentials.Prove(Claim::kMachine, 0)});
  }
  const auto replayer = Come();
  ASSERT_TRUE(replayer->WriteAll(hello).ok());
  EXPECT_EQ(Hear(*replayer), "WELCOME");
  ASSERT_TRUE(replayer->WriteAll(machine).ok());
  EXPECT_EQ(Hear(*replayer), kNoProof);
  EXPECT_FALSE(Look().has_value());
  EXPECT_TRUE(absl::StrContains(host_.log().text(), kNoProof)) << host_.log().text();
}

TEST_F(GreeterProofTest, WhoProvesNothingBringsNoMachine) {
  const auto stranger = Come();
  ScriptedAgreement agreement;
  SendHello(agreement, *stranger);
  HearWelcome(agreement, *stranger);
  ASSERT_TRUE(SendControl(*stranger, message::Machine{}).ok());
  EXPECT_EQ(Hear(*stranger), kNoProof);
  EXPECT_FALSE(Look().has_value());
}

// With a key of zeroes anybody would know the secret.
TEST_F(GreeterProofTest, KeyThatGivesNoSecretIsNotWelcomed) {
  const auto stranger = Come();
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
