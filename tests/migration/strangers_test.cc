// Who comes to a destination and brings no machine, comes too late, or takes its time (R11): the real source is served.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "migration/api/machine_spec.h"
#include "migration/api/move_options.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/preamble.h"
#include "tests/fakes/arrival_rig.h"
#include "tests/fakes/departure_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/scripted_source.h"

namespace ferrite::migration {
namespace {

// The reason of a REFUSE; empty when another message comes, or none.
std::string RefusalFrom(Stream& stream) {
  std::string words;
  const auto answer = ReadControl(stream);
  if (answer.ok() && std::holds_alternative<message::Refuse>(*answer)) {
    words = std::get<message::Refuse>(*answer).reason;
  }
  return words;
}

TEST(StrangersTest, AreDroppedAndTheRealSourceIsStillServed) {
  ArrivalRig rig({.silence = absl::Seconds(5)});
  rig.Start();
  {
    // One that speaks HTTP, one that leaves at once, one of another version, one of no move, one with a bad HELLO.
    const auto http = rig.place().DialAndSayNothing();
    const absl::string_view request = "GET / HTTP/1.1\r\nHost: example\r\nAccept: */*\r\n\r\n";
    ASSERT_TRUE(http->WriteAll({reinterpret_cast<const uint8_t*>(request.data()), request.size()}).ok());
    (void)rig.place().DialAndSayNothing();
    const auto newer = rig.place().DialAndSayNothing();
    ASSERT_TRUE(newer->WriteAll(EncodePreamble({.lowest_version = 9, .version = 9})).ok());
    const auto page = rig.place().Dial(ChannelRole::kPage);
    const auto hello = rig.place().Dial(ChannelRole::kControl);
    SendOldHello(*hello);
    ReadToTheEnd(*hello);
  }
  DepartureRig source({.pages = 100});
  const absl::Status moved = source.MoveTo(rig.place(), {});
  EXPECT_TRUE(moved.ok()) << moved;
  const absl::Status result = rig.Join();
  EXPECT_TRUE(result.ok()) << result;
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->CheckAll(), 0u);
}

TEST(OldVersionTest, IsToldWhyItIsDropped) {
  ArrivalRig rig({.silence = absl::Seconds(5)});
  rig.Start();
  const auto old = rig.place().Dial(ChannelRole::kControl);
  (void)SendControl(*old, message::Hello{.move_id = kScriptedMove, .page_channels = 1, .urgent_channels = 1});
  EXPECT_NE(Hear(*old).find("version"), std::string::npos);
  // One of version 1, which proved nothing.
  const auto first = rig.place().DialAndSayNothing();
  ASSERT_TRUE(first->WriteAll(EncodePreamble({.lowest_version = 1, .version = 1})).ok());
  EXPECT_EQ(Hear(*first),
            "no common version of the move protocol: this side speaks 2 to 2, the other 1 to 1; update the older one");
  // One that says so where a source of ours does: in the preamble.
  const auto newer = rig.place().DialAndSayNothing();
  ASSERT_TRUE(newer->WriteAll(EncodePreamble({.lowest_version = 9, .version = 9})).ok());
  EXPECT_NE(Hear(*newer).find("version"), std::string::npos);
  (void)rig.Cancel();
}

// A stranger that keeps a connection alive and says nothing does not keep the source out for ever.
TEST(StrangersTest, OneThatOnlyAnswersPingIsDropped) {
  ArrivalRig rig({.patience = absl::Milliseconds(400)});
  rig.Start();
  const auto stranger = rig.place().Dial(ChannelRole::kControl);
  int pings = 0;
  // Until it is dropped.
  while (ReadAnyControl(*stranger).ok() && SendControl(*stranger, message::Pong{}).ok()) {
    ++pings;
  }
  EXPECT_GT(pings, 0);
  (void)rig.Cancel();
}

// Slow is not hostile: an overloaded source is still the one that is waited for. Each of its steps takes longer than
// one of a stranger may that says nothing (here a stranger is dropped meanwhile), and there is no other limit.
TEST(SlowSourceTest, IsWaitedForWhileStrangersComeAndGo) {
  constexpr absl::Duration kSlow = absl::Milliseconds(150);
  constexpr int kStrangers = 7;  // with the source they are as many as are greeted at a time
  FakeClock clock;
  ArrivalRig rig({.silence = absl::Milliseconds(100), .patience = absl::Seconds(20)}, clock);
  rig.Start();
  const auto control = rig.place().Dial(ChannelRole::kControl);
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < kStrangers; ++i) {
    strangers.push_back(rig.place().Dial(ChannelRole::kControl));
  }
  clock.Advance(kSlow);
  SendHello(rig.place().agreement(), *control);
  HearWelcome(rig.place().agreement(), *control);
  clock.Advance(kSlow);
  SendMachine(rig.place(), *control);
  HearAccept(rig.place(), *control);
  for (const auto& stranger : strangers) {
    // The others know at once that they need not wait.
    EXPECT_NE(Hear(*stranger).find("busy with another move"), std::string::npos);
  }
  clock.Advance(kSlow);
  const auto page = rig.place().Dial(ChannelRole::kPage);
  clock.Advance(kSlow);
  const auto urgent = rig.place().Dial(ChannelRole::kUrgent);
  HearOpened(rig.place(), *control);
  clock.Advance(kSlow);
  (void)SendControl(*control, message::Advise{});
  EXPECT_EQ(Hear(*control), "READY");
  (void)rig.Cancel();
}

// R11: strangers that are greeted are few at a time, each for a limited time, and nobody waits behind them.
TEST(StrangersTest, TooManyThatWaitToBeGreetedLoseTheirPlace) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.Start();
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < 12; ++i) {
    strangers.push_back(rig.place().Dial(ChannelRole::kControl));
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_NE(Hear(*strangers[static_cast<size_t>(i)]).find("too many others"), std::string::npos) << i;
  }
  const ScriptedSource source(rig.place());
  (void)rig.Cancel();
}

// R11: who was welcomed and ends its move has ended nobody else's, nor the wait for a source.
TEST(StrangersTest, OneThatIsWelcomedAndGoesIsDropped) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.Start();
  for (const bool cancels : {false, true}) {
    const auto stranger = DialAndGetWelcome(rig.place());
    (void)SendControl(*stranger, cancels ? Message(message::Cancel{.message = "no more"})
                                         : Message(message::Error{.message = "no more"}));
    ReadToTheEnd(*stranger);
  }
  const ScriptedSource source(rig.place());
  (void)rig.Cancel();
}

// R11: nor does who was welcomed and says nothing more.
TEST(StrangersTest, ThirtyThatSayHelloAndNothingElseKeepNobodyOut) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.Start();
  std::vector<std::unique_ptr<Stream>> strangers;
  for (int i = 0; i < 30; ++i) {
    strangers.push_back(DialAndGetWelcome(rig.place()));
  }
  const ScriptedSource source(rig.place());
  EXPECT_EQ(rig.there().accepted, 1);
  (void)rig.Cancel();
}

// R11: only a machine that is accepted ends the wait, and what was made for another one is gone.
TEST(StrangersTest, MachineThatIsRefusedEndsNothing) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  std::atomic<bool> refuses = true;
  rig.there().on_build = [&] {
    return refuses ? absl::FailedPreconditionError("there is no \x1b[2J here") : absl::OkStatus();
  };
  rig.Start();
  const auto bring = [&] {
    const auto stranger = DialAndGetWelcome(rig.place());
    SendMachine(rig.place().agreement(), *stranger, {});
    std::string words = RefusalFrom(*stranger);
    ReadToTheEnd(*stranger);
    return words;
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(bring(), "there is no \x1b[2J here");
  }
  refuses = false;
  // After it was built.
  rig.there().bytes = kScriptedBytes;
  EXPECT_EQ(bring(), "the machine has 0 memory regions, here it would have 1");
  rig.there().bytes = 0;
  EXPECT_TRUE(rig.log().WaitFor("receive: waits on, having refused the machine from unix:")) << rig.log().text();
  EXPECT_TRUE(rig.log().WaitFor("there is no ?[2J here\n")) << rig.log().text();
  EXPECT_EQ(rig.session().state(), MoveState::kSetup);
  const ScriptedSource source(rig.place());
  EXPECT_EQ(rig.there().dropped, 4);
  EXPECT_EQ(rig.there().accepted, 1);
  (void)rig.Cancel();
}

// The first machine that `rig` makes waits: `building` says when, and `go_on` until when.
void StopTheFirstBuild(ArrivalRig& rig, absl::Notification& building, absl::Notification& go_on) {
  rig.there().on_build = [&] {
    if (!building.HasBeenNotified()) {
      building.Notify();
      go_on.WaitForNotification();
    }
    return absl::OkStatus();
  };
}

// The same of one that leaves while its machine is made.
TEST(StrangersTest, WhoLeavesBeforeItsMachineIsAcceptedEndsNothing) {
  absl::Notification building;
  absl::Notification left;
  ArrivalRig rig({.patience = absl::Hours(1)});
  StopTheFirstBuild(rig, building, left);
  rig.Start();
  {
    const auto stranger = DialAndGetWelcome(rig.place());
    SendMachine(rig.place(), *stranger);
    building.WaitForNotification();
    (void)SendControl(*stranger, message::Error{.message = "\x1b[2J"});
    // Until that has been heard.
    ReadToTheEnd(*stranger);
    left.Notify();
  }
  const ScriptedSource source(rig.place());
  EXPECT_TRUE(rig.log().WaitFor("the source says: ?[2J\n")) << rig.log().text();
  EXPECT_EQ(rig.there().dropped, 1);
  EXPECT_EQ(rig.there().accepted, 1);
  (void)rig.Cancel();
}

// The same of one that does not read the answer: nobody waits for it.
TEST(StrangersTest, WhoDoesNotReadKeepsNobodyWaiting) {
  absl::Notification building;
  absl::Notification full;
  ArrivalRig rig({.silence = absl::Hours(1), .patience = absl::Hours(1)});
  StopTheFirstBuild(rig, building, full);
  rig.Start();
  const auto stranger = DialAndGetWelcome(rig.place());
  SendMachine(rig.place(), *stranger);
  building.WaitForNotification();
  // Until the answers, and then the questions, fit into no buffer any more.
  stranger->SetPatience(absl::Seconds(1));
  while (SendControl(*stranger, message::Ping{}).ok()) {
  }
  full.Notify();
  const ScriptedSource source(rig.place());
  EXPECT_EQ(rig.there().dropped, 1);
  EXPECT_EQ(rig.there().accepted, 1);
  (void)rig.Cancel();
}

// R11: who may still be a stranger announces no more than a machine needs.
TEST(StrangersTest, LongMessagesAreNotTaken) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.Start();
  const auto stranger = rig.place().Dial(ChannelRole::kControl);
  ASSERT_TRUE(stranger->WriteAll(ControlHeaderOf(kMaxGreetingBytes + 8)).ok());
  EXPECT_NE(Hear(*stranger).find("at most 262144 are allowed"), std::string::npos);
  const ScriptedSource source(rig.place());
  (void)rig.Cancel();
}

// R7, R11: no machine is made of memory that cannot be.
TEST(StrangersTest, RegionsThatCannotBeAreNotMade) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  std::atomic<int> built = 0;
  rig.there().on_build = [&] {
    ++built;
    return absl::OkStatus();
  };
  rig.Start();
  const MachineSpec::Region regions[] = {
      {.bytes = kScriptedBytes, .page_bytes = 0},
      {.bytes = kScriptedBytes, .page_bytes = 4095},
      {.bytes = kScriptedBytes, .page_bytes = 3 * 4096},
      {.bytes = kScriptedBytes, .page_bytes = uint64_t{1} << 63},
      {.base = 4096, .bytes = kScriptedBytes, .page_bytes = kScriptedBytes},
      {.bytes = kScriptedBytes + 1, .page_bytes = 4096},
      {.bytes = 0, .page_bytes = 4096},
      {.base = ~uint64_t{4095}, .bytes = kScriptedBytes, .page_bytes = 4096},
      {.kind = static_cast<RegionKind>(9), .bytes = kScriptedBytes, .page_bytes = 4096},
  };
  for (const MachineSpec::Region& region : regions) {
    const auto stranger = DialAndGetWelcome(rig.place());
    SendMachine(rig.place().agreement(), *stranger, {.regions = {region}});
    const std::string words = Hear(*stranger);
    EXPECT_NE(words.find("MACHINE: memory region 0 "), std::string::npos) << words;
  }
  EXPECT_EQ(built, 0);
  const ScriptedSource source(rig.place());
  EXPECT_EQ(built, 1);
  (void)rig.Cancel();
}

// A source whose machine is being made when the destination is told to end hears that.
TEST(StrangersTest, HearOfACancelWhileTheirMachineIsMade) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.there().on_build = [&] {
    EXPECT_TRUE(rig.session().Cancel().ok());
    EXPECT_TRUE(rig.there().cancelled) << "who makes it need not go on";
    return absl::FailedPreconditionError("and it is refused");
  };
  rig.Start();
  const auto source = DialAndGetWelcome(rig.place());
  SendMachine(rig.place(), *source);
  EXPECT_EQ(RefusalFrom(*source), "and it is refused");
  EXPECT_EQ(Hear(*source), "cancelled");
  const absl::Status result = rig.Join();
  EXPECT_TRUE(absl::IsCancelled(result)) << result;
  EXPECT_EQ(rig.session().state(), MoveState::kCancelled);
}

// Who waits to be greeted when the destination ends hears that, not of another move.
TEST(StrangersTest, HearWhyTheDestinationEnds) {
  ArrivalRig rig({.patience = absl::Hours(1)});
  rig.Start();
  const auto stranger = DialAndGetWelcome(rig.place());
  EXPECT_TRUE(rig.session().Cancel().ok());
  EXPECT_EQ(Hear(*stranger), "the destination waits for nobody any more: cancelled");
  (void)rig.Join();
}

// Whoever comes while a move is on hears so, in every part of it, and the move takes no harm.
TEST(BusyDestinationTest, TellsASecondSourceAtOnce) {
  // Nothing here is over because of the time.
  ArrivalRig rig({.silence = absl::Hours(1), .patience = absl::Hours(1)});
  DepartureRig source({.pages = 100});
  DepartureRig second({.pages = 100});
  const auto try_second = [&](const char* when) {
    const absl::Status status = second.MoveTo(rig.place(), {.silence = absl::Hours(1), .patience = absl::Hours(1)});
    EXPECT_NE(status.message().find("the destination is busy with another move"), absl::string_view::npos)
        << when << ": " << status;
    EXPECT_TRUE(second.guest().running());
  };
  rig.there().on_run = [&] { try_second("after GRANT"); };
  source.port().on_save = [&] { try_second("at the switchover"); };
  rig.Start();
  const absl::Status moved = source.MoveTo(rig.place(), {.mode = MoveMode::kPostcopy});
  EXPECT_TRUE(moved.ok()) << moved;
  const absl::Status result = rig.Join();
  EXPECT_TRUE(result.ok()) << result;
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->CheckAll(), 0u);
}

}  // namespace
}  // namespace ferrite::migration
