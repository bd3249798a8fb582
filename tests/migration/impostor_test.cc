// Who knows the address, the id and the wire format of a move, and has its secret not: joins nothing, takes nothing
// over, ends nothing, and is given no page (R2, R3, R4, R11).
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/api/move_state.h"
#include "migration/api/remedy.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/preamble.h"
#include "migration/protocol/proof.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "migration/session/credentials.h"
#include "tests/fakes/arrival_rig.h"
#include "tests/fakes/departure_rig.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/scripted_source.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kFeatures = kFeaturePostcopy | kFeatureRecovery | kFeaturePoison;
constexpr char kNotOfThisMove[] = "it does not belong to this move";

// A secret, and not that of the move.
Credentials OfAnImpostor() {
  const KeyExchange source = *KeyExchange::Create(KeyExchange::Side::kSource);
  const KeyExchange destination = *KeyExchange::Create(KeyExchange::Side::kDestination);
  return {*source.Agree(destination.key(), destination.nonce(), kScriptedMove), source.nonce(), destination.nonce()};
}

// More than are greeted at a time, and fewer than wait.
constexpr int kSilent = 20;

// Connections that say what they are, and answer no challenge.
std::vector<std::unique_ptr<Stream>> DialAndAnswerNothing(MeetingPlace& place, ChannelRole role) {
  std::vector<std::unique_ptr<Stream>> silent;
  for (int i = 0; i < kSilent; ++i) {
    silent.push_back(place.DialAndSayWhat(role));
  }
  return silent;
}

TEST(ImpostorTest, DoesNotJoinAMove) {
  ArrivalRig rig({.silence = absl::Seconds(30), .patience = absl::Hours(1)});
  rig.Start();
  const Credentials impostor = OfAnImpostor();
  const auto control = DialAndGetWelcome(rig.place(), kFeatures);
  SendMachine(rig.place(), *control);
  HearAccept(rig.place(), *control);
  std::vector<std::vector<std::unique_ptr<Stream>>> silent;
  for (const ChannelRole role : {ChannelRole::kPage, ChannelRole::kUrgent, ChannelRole::kRecover}) {
    silent.push_back(DialAndAnswerNothing(rig.place(), role));
    EXPECT_EQ(Hear(*rig.place().Dial(role, 0, &impostor)), "");
  }
  EXPECT_TRUE(rig.log().WaitFor(kNotOfThisMove)) << rig.log().text();
  // One of the move's, of a GRANT that there was not.
  EXPECT_EQ(Hear(*rig.place().Dial(ChannelRole::kPage, 1)), "");
  const auto page = rig.place().Dial(ChannelRole::kPage);
  const auto urgent = rig.place().Dial(ChannelRole::kUrgent);
  HearOpened(rig.place(), *control);
  // Nor later.
  EXPECT_EQ(Hear(*rig.place().Dial(ChannelRole::kPage, 0, &impostor)), "");
  ASSERT_TRUE(SendControl(*control, message::Advise{}).ok());
  EXPECT_EQ(Hear(*control), "READY");
  EXPECT_EQ(rig.there().accepted, 1);
  (void)rig.Cancel();
  EXPECT_EQ(rig.session().state(), MoveState::kCancelled);
}

constexpr Preamble kRecover{.lowest_version = kOurVersions.lowest,
                            .version = kOurVersions.newest,
                            .role = ChannelRole::kRecover,
                            .move_id = kScriptedMove};

TEST(ImpostorTest, DoesNotRecoverAMove) {
  ArrivalRig rig({.silence = absl::Seconds(30)});
  rig.Start();
  {
    ScriptedSource source(rig.place(), kFeatures);
    source.SendZero(kScriptedWork.first_page, kScriptedWork.pages);
    ASSERT_TRUE(source.HandOver(1));
  }
  MeetingPlace& place = rig.place();
  const Credentials impostor = OfAnImpostor();
  const auto silent = DialAndAnswerNothing(place, ChannelRole::kRecover);
  for (const uint64_t epoch : {0, 1, 2}) {
    const auto control = place.Dial(ChannelRole::kRecover, epoch, &impostor);
    SendRecover(*control, epoch, 1);
    EXPECT_EQ(Hear(*control), "");
  }
  // Without the role that is asked for a proof.
  const auto unasked = place.Dial(ChannelRole::kControl);
  SendRecover(*unasked, 1, 1);
  EXPECT_EQ(Hear(*unasked), "");
  // What the source proved over a connection that was lost, once more.
  std::optional<ChannelProof> proof;
  for (const bool replays : {false, true}) {
    const auto control = place.DialAndSayWhat(ChannelRole::kRecover);
    const auto challenge = ReadChallenge(*control);
    ASSERT_TRUE(challenge.has_value());
    if (!replays) {
      proof = *place.credentials().ProveChannel(kRecover, 1, *challenge);
    }
    ASSERT_TRUE(control->WriteAll(EncodeProof(*proof)).ok());
    if (!replays) {
      // Whoever proved it is believed, for this connection.
      SendRecover(*control, 1, 1);
      EXPECT_EQ(Hear(*control), "STANDING");
      continue;
    }
    SendRecover(*control, 1, 1);
    EXPECT_EQ(Hear(*control), "");
  }
  EXPECT_EQ(rig.session().state(), MoveState::kPostcopyPaused);
  EXPECT_TRUE(rig.there().guest()->running()) << "R2";

  // As a source does: for the destination the one that was proved and hung up may not be over yet.
  std::unique_ptr<Stream> control;
  absl::StatusOr<Message> standing;
  for (int tries = 0; tries < 1000 && !standing.ok(); ++tries) {
    control = place.Dial(ChannelRole::kRecover, 1);
    SendRecover(*control, 1, 1);
    standing = ReadControl(*control);
  }
  ASSERT_TRUE(standing.ok()) << standing.status();
  ASSERT_EQ(MessageName(*standing), "STANDING");
  EXPECT_EQ(place.credentials().Check(Claim::kGranted, 1, std::get<message::Standing>(*standing).digest),
            absl::OkStatus());
  (void)HearA<message::Missing>(*control);
  EXPECT_EQ(Hear(*place.Dial(ChannelRole::kPage, 1, &impostor)), "");
  EXPECT_EQ(Hear(*place.Dial(ChannelRole::kUrgent, 1, &impostor)), "");
  // One of setup.
  EXPECT_EQ(Hear(*place.Dial(ChannelRole::kPage, 0)), "");
  const auto page = place.Dial(ChannelRole::kPage, 1);
  const auto urgent = place.Dial(ChannelRole::kUrgent, 1);
  HearOpened(place, *control, 1);
  const auto send = [&](const PageHeader& header) { ASSERT_TRUE(page->WriteAll(EncodePageHeader(header)).ok()); };
  constexpr uint32_t kAfter = kScriptedWork.first_page + kScriptedWork.pages;
  send({.type = PageFrameType::kZero, .first_page = 0, .count = kScriptedWork.first_page});
  send({.type = PageFrameType::kZero, .first_page = kAfter, .count = kScriptedPages - kAfter});
  send({.type = PageFrameType::kRound, .count = kLastRound});
  ASSERT_TRUE(SendControl(*control, message::End{}).ok());
  EXPECT_TRUE(HearA<message::Shut>(*control).ok);
  ASSERT_TRUE(SendControl(*control, message::Heard{}).ok());
  const absl::Status result = rig.Join();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(rig.session().state(), MoveState::kCompleted);
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->errors(), 0u) << "R1";
  EXPECT_EQ(rig.there().guest()->CheckAll(), 0u) << "R1";
}

// All that a source said in a move that went well, to a destination that waits for one.
TEST(ImpostorTest, RecordedMoveIsNotPlayed) {
  std::vector<std::vector<uint8_t>> recorded;
  {
    FakeMove move({.bytes = kScriptedBytes, .work = {.first_page = 100, .pages = 200}, .relay = true});
    const FakeMoveResult result = move.Move(
        {.mode = MoveMode::kPrecopy}, [&](Source&, const MoveProgress&) { move.relay().Record(); },
        [&](Source&, const absl::Status& status) {
          recorded = move.relay().recorded();
          return status;
        });
    ASSERT_TRUE(result.source.ok()) << result.source;
  }
  ASSERT_GE(recorded.size(), 4u);
  ArrivalRig rig({.patience = absl::Hours(1)});
  std::atomic<int> built = 0;
  rig.there().on_build = [&] {
    ++built;
    return absl::OkStatus();
  };
  rig.Start();
  for (size_t i = 0; i < recorded.size(); ++i) {
    const auto replay = rig.place().DialAndSayNothing();
    (void)replay->WriteAll(recorded[i]);
    if (i == 0) {
      EXPECT_EQ(Hear(*replay), "WELCOME");
      EXPECT_EQ(Hear(*replay), "MACHINE: it does not prove that it is of this move");
    }
    // Until it is dropped.
    std::vector<uint8_t> byte(1);
    while (replay->ReadAll(byte).ok()) {
    }
  }
  EXPECT_EQ(built, 0);
  EXPECT_EQ(rig.there().accepted, 0);
  EXPECT_EQ(rig.session().state(), MoveState::kSetup) << "it waits on";
  const ScriptedSource source(rig.place());
  EXPECT_EQ(built, 1);
  (void)rig.Cancel();
}

// In the place of a destination that has the guest, and is gone.
struct Impostor {
  const char* name;
  // On each connection that comes, which has said nothing yet.
  DestinationScript acts;
};

class ImpostorThereTest : public testing::TestWithParam<Impostor> {
 protected:
  // Until Close() of the place.
  void Serve() {
    std::unique_ptr<Stream> control = place_.Accept();
    ASSERT_NE(control, nullptr);
    ASSERT_TRUE(ReadPreamble(place_, *control).has_value());
    {
      ScriptedDestination there(place_, *control, {.features = kFeatures});
      ASSERT_TRUE(there.AwaitGrant());
      (void)SendControl(*control, message::Running{.epoch = 1});
      there.HangUp();
    }
    control.reset();
    std::vector<std::unique_ptr<Stream>> kept;
    while ((control = place_.Accept()) != nullptr) {
      ++came_;
      GetParam().acts(place_, *control);
      kept.push_back(std::move(control));
    }
  }

  MeetingPlace place_;
  DepartureRig rig_{{.pages = 100}};
  std::atomic<int> came_ = 0;
};

TEST_P(ImpostorThereTest, IsGivenNothingAndDecidesNothing) {
  Thread impostor = StartOrDie("impostor", [this] { Serve(); });
  std::atomic<int> grants = 0;
  rig_.port().on_grant = [&] { ++grants; };
  // It is looked for, if not for long.
  (void)rig_.MoveTo(
      place_,
      {.mode = MoveMode::kPostcopy, .connect_limit = absl::Milliseconds(300), .recover_for = absl::Milliseconds(1)});
  const int looked = came_;
  EXPECT_GE(looked, 1);
  EXPECT_EQ(rig_.source().state(), MoveState::kPostcopyPaused);
  EXPECT_FALSE(rig_.guest().running()) << "R2";
  EXPECT_EQ(grants, 1);
  // Its word brings the guest back as little.
  const absl::Status back = rig_.source().TakeBack(/*force=*/false);
  EXPECT_TRUE(absl::IsUnavailable(back)) << back;
  EXPECT_EQ(RemedyOf(back), Remedy::kForce) << back;
  EXPECT_EQ(rig_.source().state(), MoveState::kPostcopyPaused);
  EXPECT_FALSE(rig_.guest().running()) << "R2";
  // A person's does.
  const absl::Status forced = rig_.source().TakeBack(/*force=*/true);
  EXPECT_TRUE(forced.ok()) << forced;
  EXPECT_TRUE(rig_.guest().running());
  EXPECT_EQ(came_, looked + 2);
  EXPECT_EQ(grants, 1);
  place_.Close();
  impostor.Join();
}

// Says `word` after RECOVER, and hears nothing after that.
DestinationScript Says(std::function<Message(MeetingPlace&)> word) {
  return [word = std::move(word)](MeetingPlace& place, Stream& control) {
    // Before the connection has nonces of its own.
    const Message said = word(place);
    ASSERT_TRUE(ReadPreamble(place, control).has_value());
    EXPECT_EQ(Hear(control), "RECOVER");
    (void)SendControl(control, said);
    const std::string more = Hear(control);
    EXPECT_TRUE(more != "GRANT" && more != "REVOKE") << more;
  };
}

INSTANTIATE_TEST_SUITE_P(
    All, ImpostorThereTest,
    testing::Values(
        Impostor{"TakesConnectionsAndIsSilent", [](MeetingPlace&, Stream&) {}},
        Impostor{"ClosesConnections", [](MeetingPlace&, Stream& c) { c.Shutdown(); }},
        Impostor{"SaysThatItHasTheGuest", Says([](MeetingPlace&) { return message::Standing{.granted = true}; })},
        Impostor{"SaysThatItWasNotGranted", Says([](MeetingPlace&) { return message::Standing{.granted = false}; })},
        Impostor{"SaysWhatWasProvedOverAnotherConnection", Says([](MeetingPlace& place) {
                   return message::Standing{.granted = false,
                                            .digest = *place.credentials().Prove(Claim::kStanding, 1)};
                 })},
        Impostor{"SaysRevoked", Says([](MeetingPlace&) { return message::Revoked{}; })},
        Impostor{"Refuses", Says([](MeetingPlace&) { return message::Refuse{.reason = "never"}; })},
        Impostor{"SaysThatItRuns", Says([](MeetingPlace&) { return message::Running{.epoch = 1}; })},
        Impostor{"SaysThatAllIsThere", Says([](MeetingPlace&) { return message::Shut{.ok = true}; })},
        Impostor{"AsksForAllPages", Says([](MeetingPlace&) {
                   return message::Missing{.ranges = {{.count = kScriptedPages}}, .last = true};
                 })}),
    [](const testing::TestParamInfo<Impostor>& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite::migration
