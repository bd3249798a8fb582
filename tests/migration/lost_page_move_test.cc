// Moves of a guest of which the hardware lost pages (R9), on each kind of memory, there and back.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/thread.h"
#include "memory/bus_fault.h"
#include "memory/guest_memory.h"
#include "migration/api/move_options.h"
#include "migration/channel/pair/pair_rendezvous.h"
#include "migration/channel/socket/stream.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/version.h"
#include "migration/session/destination.h"
#include "migration/session/source.h"
#include "tests/fakes/departure_rig.h"
#include "tests/fakes/fake_guest.h"
#include "tests/fakes/lost_page.h"
#include "tests/fakes/meeting_place.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_destination.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_place.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/landing.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = uint64_t{16} << 20;
constexpr FakeGuestWork kWork = {.first_page = 1536, .pages = 1024, .random = true};
// Where the guest does not work, each in a host page of its own, of 2 MiB too.
constexpr uint64_t kListed = 7;           // somebody has met it
constexpr uint64_t kUnmet = 5 * 512 + 3;  // nobody has
// Lost on the way: the first two when they have left with the first round.
constexpr uint64_t kWhole = 600;
constexpr uint64_t kLater = 1034;
constexpr uint64_t kLast = 7 * 512 + 88;

// A switchover is given up that takes much longer.
const absl::Duration kDowntime = ForPlace(absl::Milliseconds(50), absl::Seconds(2));

class LostPageMoveTest : public testing::TestWithParam<Landing> {
 protected:
  void SetUp() override {
    absl::Status status = PageLoser::Supported();
    status.Update(LandingHost(GetParam(), 2 * kBytes).status());
    if (!status.ok()) {
      GTEST_SKIP() << status;
    }
  }

  // The source has the same kind of memory, and something everywhere.
  FakeMove& Start(FakeMoveSetup setup = {}) {
    setup.bytes = kBytes;
    // Of hugetlbfs the source and the way back need some, too.
    setup.landing_bytes = 2 * kBytes;
    setup.source_backing = GetParam().backing;
    setup.landing = &GetParam();
    setup.work = kWork;
    move_ = std::make_unique<FakeMove>(setup);
    for (uint64_t page = 0; page < kBytes / kPageBytes; ++page) {
      if (page < kWork.first_page || page >= kWork.first_page + kWork.pages) {
        EXPECT_TRUE(move_->memory().WriteObject(GuestAddress(page * kPageBytes), page + 1).ok());
      }
    }
    Lose(kListed);
    EXPECT_FALSE(move_->memory().ReadObject<uint64_t>(GuestAddress(kListed * kPageBytes)).ok());
    Lose(kUnmet);
    return *move_;
  }
  static uint64_t HostPage(const GuestMemory& memory, uint64_t page) {
    const uint64_t pages = memory.regions()[0]->host_page_bytes() / kPageBytes;
    return page / pages * pages;
  }
  void Lose(uint64_t page) {
    EXPECT_EQ(loser_.Lose(*move_->memory().regions()[0], HostPage(move_->memory(), page) * kPageBytes),
              absl::OkStatus());
  }
  // The guest wrote it before it was lost.
  void LoseWritten(uint64_t page) {
    Lose(page);
    move_->memory().MarkWritten(GuestAddress(page * kPageBytes), kPageBytes);
  }

  static bool IsLost(const GuestMemory& memory, uint64_t page) {
    const uint8_t* const at = memory.regions()[0]->guest_mapping().data() + page * kPageBytes;
    return TouchMemory([at] { (void)*static_cast<const volatile uint8_t*>(at); }).has_value();
  }
  // The guest is there, and works on; these are lost, and nothing else is.
  void ExpectMoved(const FakeMoveResult& result, FakeDestination& there, std::vector<uint64_t> lost) {
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    there.guest()->AwaitSteps(1000);
    there.guest()->Pause();
    EXPECT_EQ(there.guest()->errors(), 0u) << "R1";
    EXPECT_EQ(there.guest()->CheckAll(), 0u) << "R1";
    GuestMemory& memory = *there.memory();
    std::vector<GuestAddress> addresses;
    for (uint64_t& page : lost) {
      page = HostPage(memory, page);
      addresses.emplace_back(page * kPageBytes);
    }
    std::sort(addresses.begin(), addresses.end());
    EXPECT_EQ(memory.LostPages(), addresses);
    EXPECT_EQ(result.report.lost_pages, lost.size());
    ASSERT_EQ(result.report.lost_at.size(), lost.size());
    EXPECT_EQ(result.report.lost_at[0], addresses[0].value());
    for (uint64_t page = 0; page < kBytes / kPageBytes; ++page) {
      const bool is_lost = std::find(lost.begin(), lost.end(), HostPage(memory, page)) != lost.end();
      ASSERT_EQ(IsLost(memory, page), is_lost) << page;
      if (!is_lost && (page < kWork.first_page || page >= kWork.first_page + kWork.pages)) {
        ASSERT_EQ(memory.ReadObject<uint64_t>(GuestAddress(page * kPageBytes)).value_or(0), page + 1);
      }
    }
  }
  // From where it is, which is `there`.
  void MoveBack(FakeDestination& there, MoveMode mode, const std::vector<uint64_t>& lost) {
    there.guest()->Run();
    FakeSourcePort port(*there.memory(), *there.guest());
    FakeDestination back(GetParam().backing);
    back.thp = GetParam().thp;
    const absl::StatusOr<PairRendezvous> place = MakePair(RealClock());
    ASSERT_TRUE(place.ok()) << place.status();
    const auto arrival = Destination::Create(AnyHost(), back, {});
    const auto departure =
        Source::Create(AnyHost(), port, {.mode = mode, .downtime_limit = kDowntime, .channels = 2}, nullptr);
    ASSERT_TRUE(arrival.ok() && departure.ok());
    FakeMoveResult result;
    Thread receiver = StartOrDie("test-receiver", [&] { result.destination = (*arrival)->Run(*place->acceptor); });
    result.source = (*departure)->Run(place->opener);
    if (!result.source.ok()) {
      (void)(*arrival)->Cancel();
      (*arrival)->Leave();
    }
    receiver.Join();
    result.report = (*departure)->report();
    ExpectMoved(result, back, lost);
    back.guest()->Pause();
  }

  std::unique_ptr<FakeMove> move_;
  PageLoser loser_;
};

TEST_P(LostPageMoveTest, PrecopyAndBack) {
  FakeMove& move = Start();
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy, .downtime_limit = kDowntime, .channels = 2});
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(result, move.destination(), {kListed, kUnmet}));
  EXPECT_FALSE(result.report.postcopy);
  ASSERT_NO_FATAL_FAILURE(MoveBack(move.destination(), MoveMode::kPostcopy, {kListed, kUnmet}));
}

TEST_P(LostPageMoveTest, PostcopyAndBack) {
  FakeMove& move = Start({.tcp = true});
  // As soon as it runs it touches one; and one is lost when the guest has left.
  move.port().on_save = [&] { Lose(kLast); };
  std::optional<bool> touched;
  move.destination().on_run = [&] { touched = IsLost(*move.destination().memory(), kUnmet); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .downtime_limit = kDowntime, .channels = 2});
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(result, move.destination(), {kListed, kUnmet, kLast}));
  EXPECT_EQ(touched, true) << "R5";
  EXPECT_GT(result.report.faults, 0u);
  ASSERT_NO_FATAL_FAILURE(MoveBack(move.destination(), MoveMode::kPrecopy, {kListed, kUnmet, kLast}));
}

// What came in the first round does not survive. What is lost and was not written since it left is whole over there.
TEST_P(LostPageMoveTest, LostBetweenTheRounds) {
  FakeMove& move = Start();
  move.port().on_pause = [&] { LoseWritten(kLast); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPrecopy}, [&](Source&, const MoveProgress& progress) {
    if (progress.state == MoveState::kActive && progress.round == 2 &&
        !move.memory().regions()[0]->IsLost(kLater * kPageBytes)) {
      LoseWritten(kLater);
      Lose(kWhole);
      move.memory().regions()[0]->AddLost(kLater * kPageBytes);
      move.memory().regions()[0]->AddLost(kWhole * kPageBytes);
    }
  });
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(result, move.destination(), {kListed, kUnmet, kLater, kLast}));
  EXPECT_GE(result.report.rounds, 3u);
}

// Rounds first; what they brought of a page that is lost since is out of date.
TEST_P(LostPageMoveTest, PrecopyThatTurnsIntoPostcopy) {
  FakeMove& move = Start({.pair = true});
  move.port().restless = true;
  move.port().on_pause = [&] { LoseWritten(kLast); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Microseconds(1)});
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(result, move.destination(), {kListed, kUnmet, kLast}));
  EXPECT_TRUE(result.report.postcopy);
}

// R4: a lost page is not missing when the connection was.
TEST_P(LostPageMoveTest, ConnectionThatIsLost) {
  FakeMove& move = Start({.relay = true});
  move.destination().on_run = [&] { move.relay().CutAfter(uint64_t{4} << 20); };
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .downtime_limit = kDowntime, .channels = 2});
  ASSERT_NO_FATAL_FAILURE(ExpectMoved(result, move.destination(), {kListed, kUnmet}));
  EXPECT_EQ(result.report.recoveries, 1u);
}

// A destination of an older ferrite.
class NoLostPagesThereTest : public testing::Test {
 protected:
  void ExpectStayed(const absl::Status& status) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_NE(status.message().find("knows no lost pages"), absl::string_view::npos) << status;
    EXPECT_TRUE(rig_.guest().running()) << "R3";
    EXPECT_EQ(rig_.port().inhibited, 0);
  }
  MemoryRegion& region() { return *rig_.port().memory().regions()[0]; }

  static constexpr uint64_t kLost = (kScriptedPages - 1) * kPageBytes;
  DepartureRig rig_{{.pages = 100}};
};

TEST_F(NoLostPagesThereTest, GuestWithALostPageIsRefusedBeforeAnythingIsStopped) {
  region().AddLost(kLost);
  rig_.port().on_pause = [] { ADD_FAILURE() << "it was stopped"; };
  ExpectStayed(rig_.MoveTo(
      [](MeetingPlace&, Stream& control) {
        EXPECT_TRUE(ReadControl(control).ok());
        EXPECT_TRUE(SendControl(control, message::Welcome{.version = 2, .features = kFeaturePostcopy}).ok());
        ReadToTheEnd(control);
      },
      {}));
}

TEST_F(NoLostPagesThereTest, PageThatIsLostOnTheWayEndsTheMove) {
  rig_.port().on_pause = [&] {
    EXPECT_TRUE(region().HideLost(kLost).ok());
    region().MarkWritten(kLost, kPageBytes);
  };
  ExpectStayed(rig_.MoveTo(
      [](MeetingPlace& place, Stream& control) {
        ScriptedDestination there(place, control, {.features = kFeaturePostcopy});
        there.AwaitSwitchover();
        // What of the last pages comes before that one.
        there.LosePages();
        KeepAlive(control);
      },
      {.mode = MoveMode::kPrecopy}));
}

// Behind the switchover nobody could say that a page will never come.
TEST_F(NoLostPagesThereTest, PostcopyIsRefused) {
  rig_.port().on_pause = [] { ADD_FAILURE() << "it was stopped"; };
  ExpectStayed(rig_.MoveTo(
      [](MeetingPlace& place, Stream& control) {
        Accept(place, control, kPageBytes, /*postcopy=*/true, kFeaturePostcopy);
        ReadToTheEnd(control);
      },
      {.mode = MoveMode::kPostcopy}));
}

// Where pages are lost for good, each kind of memory once: that is all that makes a difference to a page.
std::vector<Landing> Kinds() {
  if (PageLoser::Real()) {
    return {LandingNamed("Huge"), LandingNamed("Memfd"), LandingNamed("Hugetlb")};
  }
  return {AllLandings().begin(), AllLandings().end()};
}
INSTANTIATE_TEST_SUITE_P(Kinds, LostPageMoveTest, testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ferrite::migration
