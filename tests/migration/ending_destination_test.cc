// A destination that is to end while its source takes its time, gives up, or never ends (R2, R3, R11).
#include <gtest/gtest.h>
#include <sched.h>

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/protocol/messages.h"
#include "migration/protocol/page_header.h"
#include "migration/protocol/version.h"
#include "tests/fakes/arrival_rig.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/scripted_peer.h"
#include "tests/fakes/scripted_source.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kFeatures = kFeaturePostcopy | kFeatureRecovery | kFeaturePoison;

// R11: a source whose guest runs here, and which lives and sends nothing that ends the move, does not keep this side
// when it is to end. That has its patience: a move that goes well is not broken off.
class SourceWithoutAnEndTest : public testing::Test {
 protected:
  SourceWithoutAnEndTest() {
    rig_.Start();
    source_.emplace(rig_.place(), kFeatures);
    SendZero(kScriptedWork.first_page, kScriptedWork.pages);
    EXPECT_TRUE(source_->HandOver(1));
    // It has touched what it works on, so that it can be paused when nobody serves its faults any more.
    rig_.there().guest()->AwaitSteps(200);
  }
  ~SourceWithoutAnEndTest() override {
    rig_.there().guest()->Pause();
    EXPECT_EQ(rig_.there().guest()->errors(), 0u) << "R1";
  }

  void SendFrame(const PageHeader& header) { EXPECT_TRUE(source_->page->WriteAll(EncodePageHeader(header)).ok()); }
  void SendZero(uint64_t first, uint32_t count) {
    SendFrame({.type = PageFrameType::kZero, .first_page = first, .count = count});
  }
  // Of a source that lives meanwhile, for as long as this side has patience.
  absl::Status Leave() {
    rig_.session().Leave();
    // While its session waits, too, and not only who sends words of life: else hours pass while it works.
    const Thread lives = StartOrDie("lives", [this] {
      LiveOn(*source_->control, clock_, absl::Milliseconds(500), absl::InfiniteDuration(), /*waiters=*/2);
    });
    const MonotonicTime start = clock_.Now();
    const absl::Status result = rig_.Join();
    // Some seconds, and what passes while threads have work; not the silence that ends a source.
    EXPECT_LT(clock_.Now() - start, absl::Seconds(60));
    source_->control->Shutdown();
    return result;
  }
  // Of one whose mistake is found without any.
  absl::Status LeaveAtOnce() {
    rig_.session().Leave();
    return rig_.Join();
  }

  FakeClock clock_;
  ArrivalRig rig_{{.silence = absl::Seconds(60)}, clock_};
  std::optional<ScriptedSource> source_;
};

TEST_F(SourceWithoutAnEndTest, SendsNoPage) {
  const absl::Status result = Leave();
  EXPECT_TRUE(absl::IsCancelled(result)) << result;
  EXPECT_NE(result.message().find("this side is to end, and 1004 host pages"), absl::string_view::npos) << result;
  EXPECT_EQ(rig_.session().state(), MoveState::kPostcopyPaused);
}

TEST_F(SourceWithoutAnEndTest, SendsAllPagesAndNotTheirEnd) {
  // The beginning of a frame over the urgent channel, too.
  EXPECT_TRUE(source_->urgent->WriteAll(EncodePageHeader({.first_page = 100, .count = 20})).ok());
  SendZero(0, 100);
  SendZero(120, kScriptedPages - 120);
  while (!rig_.session().HasGuest(/*whole=*/true)) {
    sched_yield();
  }
  const absl::Status result = Leave();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(rig_.session().state(), MoveState::kCompleted);
}

TEST_F(SourceWithoutAnEndTest, BeginsAnotherRound) {
  SendFrame({.type = PageFrameType::kRound, .count = 2});
  const absl::Status result = LeaveAtOnce();
  EXPECT_NE(result.message().find("another round in post-copy"), absl::string_view::npos) << result;
  EXPECT_EQ(rig_.session().state(), MoveState::kPostcopyPaused);
}

// R9: nothing is missing where a page is lost.
TEST_F(SourceWithoutAnEndTest, SendsLostPages) {
  SendFrame({.type = PageFrameType::kPoison, .first_page = 0, .count = 8});
  SendZero(8, kScriptedWork.first_page - 8);
  SendZero(kScriptedWork.first_page + kScriptedWork.pages,
           kScriptedPages - kScriptedWork.first_page - kScriptedWork.pages);
  while (!rig_.session().HasGuest(/*whole=*/true)) {
    sched_yield();
  }
  const absl::Status result = Leave();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(rig_.there().memory()->LostPages().size(), 8u);
}

// R2: GRANT may be on its way when the destination is told to end. It says that the guest never runs there, so that the
// source can go on with it.
TEST(CancelledDestinationTest, RefusesOnceTheStateIsLoaded) {
  ArrivalRig rig({.silence = absl::Seconds(10)});
  rig.Start();
  ScriptedSource source(rig.place(), kFeatures);
  source.SendRound(1, true);
  source.SendPackage(StateOfScriptedGuest(), true);
  ASSERT_EQ(Hear(*source.control), "LOADED");
  EXPECT_TRUE(rig.session().Cancel().ok());
  source.SendGrant(1);
  EXPECT_EQ(Hear(*source.control), "REFUSE");
  (void)rig.Join();
  EXPECT_EQ(rig.session().state(), MoveState::kCancelled);
  EXPECT_FALSE(rig.there().guest()->running()) << "R2";
}

// R3: a source that gives up closes its page channels, sees to its guest, for as long as that takes, and says why then.
class SourceThatGivesUpTest : public testing::Test {
 protected:
  SourceThatGivesUpTest() {
    rig_.Start();
    source_.emplace(rig_.place(), kFeatures);
    source_->page->Shutdown();
    source_->urgent->Shutdown();
    // Longer than a word takes that is on its way.
    EXPECT_FALSE(source_->control->AwaitReadable(RealClock(), absl::Milliseconds(600)));
  }

  ArrivalRig rig_{{.silence = absl::Seconds(60)}};
  std::optional<ScriptedSource> source_;
};

TEST_F(SourceThatGivesUpTest, IsHeard) {
  (void)SendControl(*source_->control, message::Cancel{.message = "cancelled"});
  EXPECT_EQ(rig_.Join(), absl::CancelledError("the source says: cancelled"));
  EXPECT_EQ(rig_.session().state(), MoveState::kFailed);
}

TEST_F(SourceThatGivesUpTest, IsNotWaitedForWhenThisSideIsToEnd) {
  const MonotonicTime start = MonotonicTime::Now();
  const absl::Status result = rig_.Cancel();
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(30));
  EXPECT_NE(result.message().find("closed the connection"), absl::string_view::npos) << result;
  EXPECT_EQ(rig_.session().state(), MoveState::kCancelled);
}

}  // namespace
}  // namespace ferrite::migration
