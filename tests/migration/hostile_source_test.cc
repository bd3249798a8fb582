// Sources that lie, stop, or send what nobody asked for (R11): the move ends with a clear word, and the memory of a
// guest that runs stays the guest's (R1).
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/version.h"
#include "tests/fakes/arrival_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/raw_control.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/scripted_source.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// Longer than a destination here waits for the rest of a frame, and then for the word of why it does not come.
constexpr absl::Duration kStuck = absl::Seconds(10);

// In a round: a page with the sum of other bytes.
void SendPageOfOtherBytes(ScriptedSource& source) {
  source.SendFrame({.first_page = 0, .count = 1});
  (void)source.page->WriteAll(std::vector<uint8_t>(sizeof(uint32_t)));
  (void)source.page->WriteAll(std::vector<uint8_t>(4096, 0x5a));
}

struct Attack {
  const char* name;
  std::function<void(ScriptedSource&)> run;
  const char* words;  // of the destination's answer
};

class HostileSourceTest : public testing::TestWithParam<Attack> {};

TEST_P(HostileSourceTest, EndsTheMoveWithAClearWord) {
  ArrivalRig rig({.silence = absl::Seconds(1)});
  rig.Start();
  {
    ScriptedSource source(rig.place());
    GetParam().run(source);
    // Until the destination has closed.
    ReadToTheEnd(*source.control);
  }
  const absl::Status result = rig.Join();
  EXPECT_FALSE(result.ok());
  EXPECT_NE(result.message().find(GetParam().words), absl::string_view::npos) << result;
  EXPECT_EQ(rig.session().state(), MoveState::kFailed);
  EXPECT_TRUE(rig.there().guest() == nullptr || !rig.there().guest()->running()) << "R2";
  EXPECT_EQ(rig.there().inhibited, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileSourceTest,
    testing::Values(
        Attack{"RubbishOnPages", [](ScriptedSource& s) { (void)s.page->WriteAll(std::vector<uint8_t>(4096, 0xee)); },
               "checksum"},
        Attack{"RubbishOnControl",
               [](ScriptedSource& s) { (void)s.control->WriteAll(std::vector<uint8_t>(4096, 0xee)); },
               "does not speak ferrite"},
        Attack{"ControlFrameOf4Gib", [](ScriptedSource& s) { (void)s.control->WriteAll(ControlHeaderOf(0xffff'fff8)); },
               "are allowed"},
        Attack{"ControlClosesInTheMiddleOfAFrame",
               [](ScriptedSource& s) {
                 (void)s.control->WriteAll(ControlHeaderOf(4096));
                 s.control->Shutdown();
               },
               // Or what the page channel, which ends with it, says first.
               "closed the connection"},
        Attack{"PagesOutside", [](ScriptedSource& s) { s.SendPages({.first_page = kScriptedPages, .count = 1}, 4096); },
               "outside"},
        Attack{"PagesFarOutside",
               [](ScriptedSource& s) { s.SendPages({.first_page = ~uint64_t{0}, .count = 2}, 8192); }, "outside"},
        Attack{"PagesOverTheEnd",
               [](ScriptedSource& s) { s.SendPages({.first_page = kScriptedPages - 1, .count = 2}, 8192); }, "outside"},
        Attack{"NoSuchRegion", [](ScriptedSource& s) { s.SendPages({.region = 7, .first_page = 0, .count = 1}, 4096); },
               "no region 7"},
        Attack{"RequestFromTheSource",
               [](ScriptedSource& s) { s.SendFrame({.type = PageFrameType::kRequest, .count = 1}); }, "request"},
        Attack{"StopsInTheMiddleOfAFrame",
               [](ScriptedSource& s) {
                 s.SendPages({.first_page = 0, .count = 1}, 100);
                 KeepAlive(*s.control, kStuck);
               },
               "in the middle of a frame"},
        Attack{"StopsBehindAHead",
               [](ScriptedSource& s) {
                 s.SendFrame({.first_page = 0, .count = 1});
                 KeepAlive(*s.control, kStuck);
                 // One that is waited for says so at the end.
                 (void)SendControl(*s.control, message::Error{.message = "late"});
               },
               "in the middle of a frame"},
        Attack{"ClosesInTheMiddleOfAFrame",
               [](ScriptedSource& s) {
                 s.SendPages({.first_page = 0, .count = 1}, 100);
                 s.page.reset();
               },
               "closed the connection in the middle"},
        Attack{"RoundsOutOfOrder", [](ScriptedSource& s) { s.SendRound(5, false); }, "where"},
        Attack{"DiscardOutside",
               [](ScriptedSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = {{.first = 1000, .count = ~uint64_t{0}}}});
               },
               "DISCARD"},
        Attack{"DiscardsOfMoreThanThereIs",
               [](ScriptedSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = {{.count = kScriptedPages}, {.count = 1}}});
               },
               "DISCARD: more pages than there are"},
        Attack{"TooManyDiscards",
               [](ScriptedSource& s) {
                 (void)SendControl(*s.control, message::Discard{.ranges = std::vector<PageRange>(kMaxRanges + 1)});
               },
               "DISCARD: 4097 ranges, at most 4096"},
        Attack{"PackageTooEarly",
               [](ScriptedSource& s) {
                 s.SendPackage({1, 2, 3}, false);
               },
               "PACKAGE came before"},
        Attack{"PackageOf2To63Bytes",
               [](ScriptedSource& s) {
                 s.SendRound(1, true);
                 s.SendPackage({1, 2, 3}, uint64_t{1} << 63, 0, false);
               },
               "damaged"},
        Attack{"PackageWithAWrongChecksum",
               [](ScriptedSource& s) {
                 s.SendRound(1, true);
                 s.SendPackage({1, 2, 3}, 3, 12345, false);
               },
               "damaged"},
        Attack{"PagesNeverSent",
               [](ScriptedSource& s) {
                 s.SendRound(1, true);
                 s.SendPackage(std::vector<uint8_t>(1000), false);
               },
               "fake guest"},
        Attack{"PageOfOtherBytes",
               [](ScriptedSource& s) {
                 SendPageOfOtherBytes(s);
                 s.SendRound(1, true);
                 s.SendPackage(StateOfScriptedGuest(), false);
               },
               "1 pages came with other bytes than they were sent with"},
        // The next two are refused for the pages that they lack, not for that one.
        Attack{"PageOfOtherBytesThatComesAgain",
               [](ScriptedSource& s) {
                 SendPageOfOtherBytes(s);
                 s.SendPages({.first_page = 0, .count = 1}, 4096);
                 s.SendRound(1, true);
                 s.SendPackage(StateOfScriptedGuest(), false);
               },
               "pages were never sent"},
        Attack{"PageOfOtherBytesThatIsOutOfDate",
               [](ScriptedSource& s) {
                 SendPageOfOtherBytes(s);
                 s.SendRound(1, true);
                 (void)SendControl(*s.control, message::Discard{.ranges = {{.count = 1}}});
                 s.SendPackage(StateOfScriptedGuest(), false);
               },
               "pages were never sent"},
        Attack{"GrantTooEarly", [](ScriptedSource& s) { s.SendGrant(0); }, "GRANT came before"},
        Attack{"MessagesThatNobodyWaitsFor",
               [](ScriptedSource& s) {
                 for (int i = 0; i < 10'000; ++i) {
                   if (!SendControl(*s.control, message::Welcome{}).ok()) {
                     break;
                   }
                 }
               },
               "the source sent"}),
    [](const testing::TestParamInfo<Attack>& info) { return info.param.name; });

TEST(SilentSourceTest, IsGivenUpAfterItsTime) {
  FakeClock clock;
  ArrivalRig rig({.silence = absl::Hours(1), .patience = absl::Hours(1)}, clock);
  rig.Start();
  const ScriptedSource source(rig.place());
  const MonotonicTime start = clock.Now();
  absl::Status result;
  std::atomic<bool> over{false};
  const Thread hear = StartOrDie("hear", [&] {
    // The PINGs, and that it is closed.
    ReadToTheEnd(*source.control);
    result = rig.Join();
    over = true;
  });
  EXPECT_TRUE(clock.PassUntil([&] { return over.load(); }));
  EXPECT_NE(result.message().find("the source was silent for 1h"), absl::string_view::npos) << result;
  EXPECT_GE(clock.Now() - start, absl::Hours(1));
  EXPECT_EQ(rig.session().state(), MoveState::kFailed);
}

// R1, R6: the first one counts, also when the second is another one.
TEST(PagesTwiceTest, ArePlacedOnce) {
  constexpr uint64_t kFirst = kScriptedWork.first_page;
  constexpr uint32_t kWork = kScriptedWork.pages;
  ArrivalRig rig({.silence = absl::Seconds(10)});
  rig.Start();
  uint64_t duplicates = 0;
  bool shut = false;
  {
    ScriptedSource source(rig.place(), kFeaturePostcopy);
    ASSERT_TRUE(source.HandOver(1));
    const PageHeader work{.first_page = kFirst, .count = kWork};
    ScriptedSource::SendPages(*source.page, work, 0);
    ScriptedSource::SendPages(*source.page, work, 0x5a);
    for (int i = 0; i < 2; ++i) {
      source.SendZero(0, kFirst);
    }
    source.SendPages({.first_page = 0, .count = kFirst}, kFirst * 4096);
    source.SendZero(kFirst + kWork, kScriptedPages - kFirst - kWork);
    source.SendEndOfPages();
    (void)SendControl(*source.control, message::End{});
    const auto answer = ReadControl(*source.control);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_EQ(MessageName(*answer), "SHUT");
    shut = std::get<message::Shut>(*answer).ok;
    duplicates = std::get<message::Shut>(*answer).figures.duplicate_pages;
  }
  const absl::Status result = rig.Join();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(shut);
  EXPECT_EQ(duplicates, kWork + 2 * kFirst);
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->errors(), 0u);
  EXPECT_EQ(rig.there().guest()->CheckAll(), 0u);
}

// R4: a block that was gathered and never became whole over its channel is all there, and that is noticed.
TEST(GatheredBlockTest, LastPageOverAnotherChannelEndsTheMove) {
  ArrivalRig rig({.silence = absl::Seconds(5)}, RealClock(), MemoryBacking::kAnonymous);
  rig.Start();
  {
    ScriptedSource source(rig.place(), kFeaturePostcopy);
    ASSERT_TRUE(source.HandOver(1));
    const auto send = [](Stream& stream, uint64_t first, uint32_t count) {
      ScriptedSource::SendPages(stream, {.type = PageFrameType::kPages, .first_page = first, .count = count}, 0);
    };
    // The first block is copied, to compare with; of the second one the last page comes with an answer.
    for (uint64_t page = 0; page < kScriptedPages; page += 64) {
      send(*source.page, page, page + 64 < kScriptedPages ? 64 : 63);
    }
    const auto await = [&](uint64_t pages) {
      const MonotonicTime deadline = MonotonicTime::Now() + absl::Seconds(5);
      while (rig.session().report().data_pages < pages && MonotonicTime::Now() < deadline) {
        std::this_thread::yield();
      }
    };
    await(kScriptedPages - 1);
    send(*source.urgent, kScriptedPages - 1, 1);
    await(kScriptedPages);
    source.SendEndOfPages();
    (void)SendControl(*source.control, message::End{});
    const auto answer = ReadControl(*source.control);
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_EQ(MessageName(*answer), "SHUT");
    EXPECT_TRUE(std::get<message::Shut>(*answer).ok);
  }
  EXPECT_EQ(rig.Join(), absl::OkStatus());
}

// A source that sends more pages than it should: the guest's memory is the guest's (R1, R11).
class LateFrameTest : public testing::TestWithParam<bool> {};

TEST_P(LateFrameTest, DoesNotTouchTheGuest) {
  const bool postcopy = GetParam();
  ArrivalRig rig({.silence = absl::Seconds(1), .hold_for = absl::Milliseconds(100)});
  rig.Start();
  absl::Status result;
  {
    ScriptedSource source(rig.place(), kFeaturePostcopy | kFeatureRecovery);
    source.SendZero(0, kScriptedPages);
    ASSERT_TRUE(source.HandOver(3, postcopy));
    const auto send_late = [&] {
      source.SendPages({.first_page = kScriptedWork.first_page, .count = kScriptedWork.pages},
                       kScriptedWork.pages * 4096);
      source.SendZero(0, kScriptedPages);
    };
    send_late();
    source.SendEndOfPages();
    const auto shut = ReadControl(*source.control);
    ASSERT_TRUE(shut.ok()) << shut.status();
    EXPECT_EQ(MessageName(*shut), "SHUT");
    send_late();
    (void)SendControl(*source.control, message::Heard{});
    // Until it is over there.
    result = rig.Join();
  }
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_TRUE(rig.there().memory()->regions()[0]->thp());
  rig.there().guest()->Pause();
  EXPECT_EQ(rig.there().guest()->errors(), 0u) << "R1";
  EXPECT_EQ(rig.there().guest()->CheckAll(), 0u) << "R1";
}

INSTANTIATE_TEST_SUITE_P(Modes, LateFrameTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) { return info.param ? "Postcopy" : "Precopy"; });

}  // namespace
}  // namespace ferrite::migration
