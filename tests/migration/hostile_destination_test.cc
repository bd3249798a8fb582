// Destinations that lie, stop, or speak another language (R11): the source's move ends with a clear word, and the guest
// runs on there (R3).
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "migration/api/move_options.h"
#include "migration/api/move_state.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "tests/fakes/departure_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/scripted_peer.h"

namespace ferrite::migration {
namespace {

// Of the time that passes between two words of one that lives.
constexpr absl::Duration kStep = absl::Milliseconds(50);

struct Answer {
  const char* name;
  DestinationScript run;
  const char* words;
  MoveMode mode = MoveMode::kPostcopy;
  absl::Duration patience = absl::Seconds(60);
  bool passes_time = false;  // of the source's clock
};

class HostileDestinationTest : public testing::TestWithParam<Answer> {};

TEST_P(HostileDestinationTest, TheGuestRunsOnAtTheSource) {
  FakeClock clock;
  DepartureRig rig({.pages = 1000, .random = false}, GetParam().passes_time ? &clock : nullptr);
  rig.guest().AwaitSteps(1000);
  const absl::Status status = rig.MoveTo(
      GetParam().run, {.mode = GetParam().mode, .silence = absl::Seconds(1), .patience = GetParam().patience});
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find(GetParam().words), absl::string_view::npos) << status;
  // Where the guest is now is for the machine to say.
  EXPECT_EQ(status.message().find("runs on here"), absl::string_view::npos) << status;
  EXPECT_EQ(rig.source().state(), MoveState::kFailed);
  EXPECT_TRUE(rig.guest().running()) << "R3";
  EXPECT_TRUE(rig.port().disks_held);
  EXPECT_EQ(rig.port().inhibited, 0);
}

DestinationScript WelcomesWith(uint16_t version) {
  return [version](MeetingPlace&, Stream& control) {
    EXPECT_TRUE(ReadControl(control).ok());
    (void)SendControl(control, message::Welcome{.version = version});
    ReadToTheEnd(control);
  };
}

// Does all that it should until READY, and nothing more; reads no pages, either.
void Lives(MeetingPlace& place, Stream& control, const ScriptedDestination::Options& options) {
  const ScriptedDestination there(place, control, options);
  KeepAlive(control);
}

// Asks for something while the guest stands still, and says nothing else.
DestinationScript Asks(PageHeader request) {
  request.type = PageFrameType::kRequest;
  return [request](MeetingPlace& place, Stream& control) {
    ScriptedDestination there(place, control);
    if (there.AwaitPackage()) {
      there.Request(request);
      KeepAlive(control);
    }
  };
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileDestinationTest,
    testing::Values(
        Answer{"ClosesAtOnce", [](MeetingPlace&, Stream&) {}, "setup: "},
        Answer{"Rubbish",
               [](MeetingPlace&, Stream& c) {
                 (void)c.WriteAll(std::vector<uint8_t>(64, 7));
                 ReadToTheEnd(c);
               },
               "does not speak ferrite's move protocol (wrong mark)"},
        Answer{"OldVersion", WelcomesWith(0), "version"},
        Answer{"VersionThatNobodyOffered", WelcomesWith(9), "version"},
        Answer{"TheFirstVersion", WelcomesWith(1), "this side speaks 2 to 2, the other 1 to 1"},
        Answer{"FrameOf4Gib",
               [](MeetingPlace&, Stream& c) {
                 (void)c.WriteAll(ControlHeaderOf(0xffff'fff8));
                 ReadToTheEnd(c);
               },
               "are allowed"},
        Answer{"ClosesInTheMiddleOfAFrame",
               [](MeetingPlace&, Stream& c) {
                 // With nothing left unread: that would be a reset.
                 EXPECT_TRUE(ReadControl(c).ok());
                 (void)c.WriteAll(ControlHeaderOf(4096));
               },
               "closed the connection in the middle"},
        Answer{"StopsReading", [](MeetingPlace& s, Stream& c) { Lives(s, c, {}); }, "stopped reading",
               MoveMode::kPrecopy},
        Answer{"RefusesWhenItHasLoaded",
               [](MeetingPlace& s, Stream& c) {
                 ScriptedDestination there(s, c);
                 if (there.AwaitPackage()) {
                   (void)SendControl(c, message::Loaded{});
                   (void)SendControl(c, message::Refuse{.reason = "no more"});
                 }
               },
               "the destination refuses: no more"},
        Answer{"RequestOutside", Asks({.first_page = kScriptedPages, .count = 1}), "outside of region 0"},
        Answer{"RequestOverTheEnd", Asks({.first_page = 1, .count = 0xffff'ffff}), "outside of region 0"},
        Answer{"RequestOfNoRegion", Asks({.region = 5, .first_page = 0, .count = 1}), "no request"},
        Answer{"RequestOfMoreThanAPage", Asks({.first_page = 7, .count = 2}),
               "pages 7+2 of region 0, which are no one"},
        Answer{"RequestOfEverything", Asks({.first_page = 0, .count = kScriptedPages}), "which are no one host page"},
        Answer{"RequestOfNothing", Asks({.first_page = 0, .count = 0}), "no pages"},
        Answer{"RubbishOnUrgent",
               [](MeetingPlace& s, Stream& c) {
                 ScriptedDestination there(s, c);
                 if (there.AwaitPackage()) {
                   (void)there.urgent[1]->WriteAll(std::vector<uint8_t>(4096, 7));
                   KeepAlive(c);
                 }
               },
               "checksum"},
        Answer{"NeverLoads",
               [](MeetingPlace& s, Stream& c) {
                 ScriptedDestination there(s, c);
                 if (there.AwaitPackage()) {
                   there.LosePages();
                   LiveOn(c, s.clock(), kStep);
                 }
               },
               "lives, but the guest stood still for 3.2s", MoveMode::kPostcopy, absl::Seconds(60), true},
        // Little by little, so that no single write takes too long.
        Answer{"HardlyReadsTheLastRound",
               [](MeetingPlace& s, Stream& c) {
                 ScriptedDestination there(s, c);
                 there.AwaitSwitchover();
                 std::array<uint8_t, 4096> bytes;
                 while (SendControl(c, message::Ping{}).ok() && there.page->ReadAll(bytes).ok()) {
                   s.clock().Advance(kStep);
                 }
               },
               "lives, but the guest stood still for 3.2s", MoveMode::kPrecopy, absl::Seconds(60), true},
        Answer{"NeedsAgesToLoad",
               [](MeetingPlace& s, Stream& c) { Lives(s, c, {.load_nanoseconds = 1'000'000'000'000}); },
               "needs 16m40s to load"},
        Answer{"NeedsMoreThanTimeCanSay",
               [](MeetingPlace& s, Stream& c) { Lives(s, c, {.load_nanoseconds = ~uint64_t{0}}); },
               "to load the machine's state"},
        Answer{"NeverAnswers",
               [](MeetingPlace& s, Stream& c) {
                 EXPECT_TRUE(s.clock().AwaitWaiting(2)) << "for the answer, and for any word";
                 s.clock().Advance(absl::Milliseconds(1500));
                 ReadToTheEnd(c);
               },
               "1.5s", MoveMode::kPostcopy, absl::Milliseconds(1500), true},
        Answer{"LivesAndNeverAnswers", [](MeetingPlace& s, Stream& c) { LiveOn(c, s.clock(), kStep); },
               "lives, but did not answer within", MoveMode::kPostcopy, absl::Milliseconds(400), true},
        Answer{"Refuses",
               [](MeetingPlace& s, Stream& c) {
                 Welcome(s, c);
                 (void)SendControl(c, message::Refuse{.reason = "the CPU here lacks avx512f"});
                 ReadToTheEnd(c);
               },
               "refuses: the CPU here lacks avx512f"},
        Answer{"RefusesInEscapeSequences",
               [](MeetingPlace& s, Stream& c) {
                 Welcome(s, c);
                 (void)SendControl(c, message::Refuse{.reason = "no\x1b[2J\nferrite: web1 runs there"});
                 ReadToTheEnd(c);
               },
               "refuses: no?[2J?ferrite: web1 runs there"},
        Answer{"AcceptsWithAbsurdPages", [](MeetingPlace& s, Stream& c) { Accept(s, c, 12345, true); }, "pages of"},
        Answer{"CannotServeFaults", [](MeetingPlace& s, Stream& c) { Accept(s, c, 4096, false); },
               "vm.unprivileged_userfaultfd=1"},
        Answer{"ClosesAfterAccept", [](MeetingPlace& s, Stream& c) { Accept(s, c, 4096, true); },
               "unix:/tmp/ferrite-peer-"},
        Answer{"AcceptsWithoutTheSecret",
               [](MeetingPlace& s, Stream& c) {
                 Welcome(s, c);
                 (void)SendControl(c, message::Accept{.host_page_bytes = {4096}, .postcopy = true});
                 ReadToTheEnd(c);
               },
               "ACCEPT: it does not prove that it is of this move"},
        Answer{"HasOpenedWithoutTheSecret",
               [](MeetingPlace& s, Stream& c) {
                 Accept(s, c, 4096, true);
                 const ScriptedChannels channels = AcceptChannels(s);
                 (void)SendControl(c, message::Opened{});
                 std::array<uint8_t, 1> byte;
                 EXPECT_FALSE(channels.page->ReadAll(byte).ok()) << "no page";
                 ReadToTheEnd(c);
               },
               "OPENED: it does not prove that it is of this move"},
        // Of a recovery.
        Answer{"HasOpenedForAnotherEpoch",
               [](MeetingPlace& s, Stream& c) {
                 Accept(s, c, 4096, true);
                 SendOpened(s, c, /*epoch=*/1);
                 const ScriptedChannels channels = AcceptChannels(s);
                 ReadToTheEnd(c);
               },
               "OPENED: it does not prove that it is of this move"},
        Answer{"TakesChannelsAndNeverSaysSo",
               [](MeetingPlace& s, Stream& c) {
                 Accept(s, c, 4096, true);
                 const ScriptedChannels channels = AcceptChannels(s);
                 LiveOn(c, s.clock(), kStep);
               },
               "lives, but did not answer within", MoveMode::kPostcopy, absl::Milliseconds(400), true},
        Answer{"SaysRunningTooEarly",
               [](MeetingPlace& s, Stream& c) {
                 Welcome(s, c);
                 (void)SendControl(c, message::Running{});
                 ReadToTheEnd(c);
               },
               "RUNNING where ACCEPT was due"}),
    [](const testing::TestParamInfo<Answer>& info) { return info.param.name; });

}  // namespace
}  // namespace ferrite::migration
