// Going on with a move behind GRANT when the other side lies, comes back for nothing, or never ends it (R2, R4).
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/api/move_state.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/version.h"
#include "migration/secret/move_secret.h"
#include "tests/fakes/arrival_rig.h"
#include "tests/fakes/departure_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/scripted_source.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kFeatures = kFeaturePostcopy | kFeatureRecovery | kFeaturePoison;

// R4: who wants to go on with a move has to be its source, and hears exactly what is missing.
TEST(HostileRecoveryTest, StrangersAreDroppedAndWhatIsMissingIsTold) {
  ArrivalRig rig({.silence = absl::Seconds(2)});
  rig.Start();
  {
    ScriptedSource source(rig.place(), kFeatures);
    source.SendZero(kScriptedWork.first_page, kScriptedWork.pages);
    ASSERT_TRUE(source.HandOver(3));
  }
  {
    // Rubbish, a channel of the move that is gone, another epoch, no channels, a second HELLO.
    const auto rubbish = rig.place().DialAndSayNothing();
    (void)rubbish->WriteAll(std::vector<uint8_t>(64, 7));
    const auto page = rig.place().Dial(ChannelRole::kPage, 3);
    for (const auto& [epoch, channels] : {std::pair<uint64_t, uint16_t>{4, 1}, {3, 0}, {3, 17}}) {
      const auto control = rig.place().Dial(ChannelRole::kRecover, epoch);
      SendRecover(*control, epoch, channels);
      EXPECT_FALSE(ReadControl(*control).ok()) << "epoch " << epoch << ", " << channels << " channels";
    }
    const auto hello = rig.place().Dial(ChannelRole::kControl);
    SendOldHello(*hello);
    EXPECT_FALSE(ReadControl(*hello).ok());
  }
  const auto control = rig.place().Dial(ChannelRole::kRecover, 3);
  SendRecover(*control, 3, 1);
  const auto standing = HearA<message::Standing>(*control);
  EXPECT_TRUE(standing.granted);
  EXPECT_EQ(rig.place().credentials().Check(Claim::kGranted, 3, standing.digest), absl::OkStatus());
  const auto missing = ReadControl(*control);
  ASSERT_TRUE(missing.ok()) << missing.status();
  ASSERT_EQ(MessageName(*missing), "MISSING");
  EXPECT_EQ(std::get<message::Missing>(*missing),
            (message::Missing{.ranges = {{.first = 0, .count = 100}, {.first = 120, .count = kScriptedPages - 120}},
                              .last = true}));
  rig.session().Leave();
  // It was not waiting: the loss of this connection is what it hears of next.
  control->Shutdown();
  EXPECT_FALSE(rig.Join().ok());
  EXPECT_EQ(rig.session().state(), MoveState::kPostcopyPaused);
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->errors(), 0u) << "R1";
}

// R4: a source that ends although pages are missing is asked for them again: nobody waits for ever without a word.
TEST(HostileRecoveryTest, PagesThatNeverCameAreAskedForAgain) {
  FakeClock clock;
  ArrivalRig rig({.silence = absl::Hours(1)}, clock);
  rig.Start();
  {
    ScriptedSource source(rig.place(), kFeatures);
    source.SendZero(kScriptedWork.first_page, kScriptedWork.pages);
    ASSERT_TRUE(source.HandOver(1));
    source.SendEndOfPages();
    (void)SendControl(*source.control, message::End{});
    // It lives, and says nothing more, until the destination has had enough.
    LiveOn(*source.control, clock, absl::Minutes(10));
  }
  const auto control = rig.place().Dial(ChannelRole::kRecover, 1);
  SendRecover(*control, 1, 1);
  ASSERT_EQ(Hear(*control), "STANDING");
  EXPECT_EQ(Hear(*control), "MISSING");
  rig.session().Leave();
  control->Shutdown();
  (void)rig.Join();
  EXPECT_EQ(rig.session().state(), MoveState::kPostcopyPaused);
  rig.there().guest()->Pause();
}

// R2, R10: it has the guest, lives, and never says that it has all of it. The source does not wait for ever, and keeps
// what it has.
TEST(SilentEndTest, LeavesTheSourcePausedWithItsMemory) {
  FakeClock clock;
  DepartureRig rig({.pages = 100}, &clock);
  const absl::Status status = rig.MoveTo(
      [&](MeetingPlace& place, Stream& control) {
        ScriptedDestination there(place, control);
        ASSERT_TRUE(there.AwaitGrant());
        (void)SendControl(control, message::Running{.epoch = 1});
        // All that comes is placed, as far as it says.
        const std::vector<uint8_t> words(kScriptedPages, kPlaced);
        EXPECT_EQ(there.page->WriteAll(std::span<const uint8_t>(words)), absl::OkStatus());
        // What it is told meanwhile fits into no buffer.
        const Thread hear = StartOrDie("hear", [&] { ReadToTheEnd(control); });
        LiveOn(control, clock, absl::Minutes(20));
      },
      {.mode = MoveMode::kPostcopy,
       .silence = absl::Hours(1),
       .patience = absl::Hours(24),
       .recover_for = absl::ZeroDuration()});
  EXPECT_NE(status.message().find("did not answer within"), absl::string_view::npos) << status;
  EXPECT_EQ(rig.source().state(), MoveState::kPostcopyPaused);
  EXPECT_FALSE(rig.guest().running()) << "R2";
}

// Gets GRANT, says RUNNING or not, and hangs up.
DestinationScript TakesTheGuestAndHangsUp(bool says_running, uint64_t host_page = kPageBytes) {
  return [says_running, host_page](MeetingPlace& place, Stream& control) {
    ScriptedDestination there(place, control, {.features = kFeatures, .host_page = host_page});
    ASSERT_TRUE(there.AwaitGrant());
    if (says_running) {
      (void)SendControl(control, message::Running{.epoch = 1});
    }
    there.HangUp();
  };
}

constexpr absl::Duration kRecoverFor = absl::Minutes(1);

// What all sources do whose destination comes back for nothing.
void ExpectThatTheSourceGaveUp(DepartureRig& rig, const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(rig.source().state(), MoveState::kPostcopyPaused);
  EXPECT_GE(rig.took(), kRecoverFor);
  EXPECT_LT(rig.took(), 10 * kRecoverFor);
  EXPECT_FALSE(rig.guest().running()) << "R2";
}

// R4: a destination that hangs up and comes back, again and again, is looked for no longer than one that is gone:
// whatever it says when it is found.
struct ComesBack {
  const char* name;
  // On a connection that came again, after RECOVER of the epoch.
  std::function<void(MeetingPlace&, Stream& control, uint64_t epoch)> answers;
};

// The epoch of RECOVER; nothing when the connection ended.
std::optional<uint64_t> HearRecover(Stream& control) {
  const auto message = ReadControl(control);
  const auto* const recover = message.ok() ? std::get_if<message::Recover>(&*message) : nullptr;
  return recover != nullptr ? std::optional(recover->epoch) : std::nullopt;
}

class ComesBackTest : public testing::TestWithParam<ComesBack> {};

TEST_P(ComesBackTest, IsLookedForNoLonger) {
  FakeClock clock;
  DepartureRig rig({.pages = 100}, &clock);
  std::atomic<int> came = 0;
  const absl::Status status =
      rig.MoveTo(TakesTheGuestAndHangsUp(false),
                 [&](MeetingPlace& place, Stream& control) {
                   if (const auto epoch = HearRecover(control); epoch.has_value()) {
                     ++came;
                     GetParam().answers(place, control, *epoch);
                   }
                 },
                 {.mode = MoveMode::kPostcopy, .silence = absl::Minutes(1), .recover_for = kRecoverFor});
  EXPECT_GE(came, 1);
  ExpectThatTheSourceGaveUp(rig, status);
}

void SayStanding(MeetingPlace& place, Stream& control, uint64_t epoch, bool granted) {
  const auto digest = place.credentials().Prove(granted ? Claim::kGranted : Claim::kStanding, epoch);
  (void)SendControl(control, message::Standing{.granted = granted, .digest = digest.value_or(Digest{})});
}

INSTANTIATE_TEST_SUITE_P(
    All, ComesBackTest,
    testing::Values(ComesBack{"HangsUp", [](MeetingPlace&, Stream&, uint64_t) {}},
                    ComesBack{"SaysThatItHasIt", [](MeetingPlace& place, Stream& c,
                                                    uint64_t epoch) { SayStanding(place, c, epoch, true); }},
                    // GRANT is sent again, and it says RUNNING again.
                    ComesBack{"NeverGotTheGrant",
                              [](MeetingPlace& place, Stream& c, uint64_t epoch) {
                                SayStanding(place, c, epoch, false);
                                if (ReadControl(c).ok()) {
                                  (void)SendControl(c, message::Running{.epoch = 2});
                                }
                              }},
                    // It misses as much each time, takes its time with it, and hangs up.
                    ComesBack{"TakesNothing",
                              [](MeetingPlace& place, Stream& c, uint64_t epoch) {
                                SayStanding(place, c, epoch, true);
                                (void)SendControl(
                                    c, message::Missing{.ranges = {{.count = kScriptedPages}}, .last = true});
                                const ScriptedChannels channels = AcceptChannels(place);
                                SendOpened(place, c, epoch);
                                LiveOn(c, place.clock(), absl::Seconds(5), kRecoverFor * 3 / 2);
                              }},
                    // The channels lead to another place than the control channel.
                    ComesBack{"HasNotOpenedTheChannels",
                              [](MeetingPlace& place, Stream& c, uint64_t epoch) {
                                SayStanding(place, c, epoch, true);
                                (void)SendControl(
                                    c, message::Missing{.ranges = {{.count = kScriptedPages}}, .last = true});
                                const ScriptedChannels channels = AcceptChannels(place);
                                (void)SendControl(c, message::Opened{});
                                std::array<uint8_t, 1> byte;
                                EXPECT_FALSE(channels.page->ReadAll(byte).ok()) << "no page";
                              }}),
    [](const testing::TestParamInfo<ComesBack>& info) { return info.param.name; });

// R4: where the source has larger host pages than the destination, a connection that breaks in one of them leaves a
// part of it missing. It is sent whole. (Here the two say together that they have pages of 64 KiB.)
TEST(PartOfAUnitTest, IsSentWhole) {
  constexpr uint64_t kUnit = 64 << 10;
  constexpr uint64_t kUnitPages = kUnit / kPageBytes;
  FakeClock clock;
  DepartureRig rig({.pages = 100}, &clock);
  std::optional<PageHeader> sent;
  const absl::Status status =
      rig.MoveTo(TakesTheGuestAndHangsUp(true, kUnit),
                 [&](MeetingPlace& place, Stream& control) {
                   const auto epoch = HearRecover(control);
                   if (!epoch.has_value()) {
                     return;
                   }
                   SayStanding(place, control, *epoch, true);
                   (void)SendControl(
                       control, message::Missing{.ranges = {{.first = 2 * kUnitPages + 3, .count = 1}}, .last = true});
                   const ScriptedChannels channels = AcceptChannels(place);
                   SendOpened(place, control, *epoch);
                   std::array<uint8_t, kPageHeaderBytes> head;
                   ASSERT_TRUE(channels.page != nullptr && channels.page->ReadAll(head).ok());
                   const auto header = DecodePageHeader(head);
                   ASSERT_TRUE(header.ok()) << header.status();
                   sent = *header;
                 },
                 {.mode = MoveMode::kPostcopy, .silence = absl::Minutes(1), .recover_for = kRecoverFor});
  EXPECT_FALSE(status.ok());
  ASSERT_TRUE(sent.has_value()) << status;
  EXPECT_EQ(sent->first_page, 2 * kUnitPages);
  EXPECT_EQ(sent->count, kUnitPages);
}

// R4: a destination that is found again and tells what is missing without an end, alive all the while, takes no more
// time than there is to look for one.
TEST(EndlessMissingTest, IsLookedForNoLonger) {
  FakeClock clock;
  DepartureRig rig({.pages = 100}, &clock);
  std::atomic<int> told = 0;
  const absl::Status status = rig.MoveTo(
      TakesTheGuestAndHangsUp(true),
      [&](MeetingPlace& place, Stream& control) {
        const auto epoch = HearRecover(control);
        if (!epoch.has_value()) {
          return;
        }
        SayStanding(place, control, *epoch, true);
        for (uint64_t page = 0;
             SendControl(control, message::Missing{.ranges = {{.first = page, .count = 1}}, .last = false}).ok();
             ++page) {
          ++told;
          // It has heard that, and waits for more.
          PassTime(control, clock, absl::Seconds(1), /*waiters=*/2);
        }
      },
      {.mode = MoveMode::kPostcopy, .patience = absl::Hours(1), .recover_for = kRecoverFor});
  EXPECT_GT(told, 0);
  // All that it tells takes 17 minutes.
  ExpectThatTheSourceGaveUp(rig, status);
}

}  // namespace
}  // namespace ferrite::migration
