// The rules that depend on where memory lands, on each kind of it, with and without UFFD_FEATURE_MOVE: whole moves
// between fake machines. The guest proves them: each of its steps checks a page (R1).
#include "tests/migration/landing.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "tests/fakes/test_thread.h"
#include "tests/migration/move_harness.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kBytes = uint64_t{32} << 20;
constexpr uint64_t kPages = kBytes / kPageBytes;
constexpr FakeGuestWork kWork = {.first_page = 256, .pages = 4096, .random = true};

class LandingTest : public testing::TestWithParam<Landing> {
 protected:
  void SetUp() override {
    const absl::Status status = LandingHost(GetParam(), kBytes).status();
    if (!status.ok()) {
      GTEST_SKIP() << status;
    }
  }

  void TearDown() override { EXPECT_EQ(WithoutUserfaultMove::moves_refused(), 0) << "it was told that there is none"; }

  // Memory where the guest does not work holds something, but for each fourth page.
  FakeMove& Start(FakeMoveSetup setup = {}) {
    setup.bytes = kBytes;
    setup.landing = &GetParam();
    setup.work = kWork;
    move_.reset();  // there is one LandingHost at a time
    move_ = std::make_unique<FakeMove>(setup);
    std::vector<uint8_t> bytes(kPageBytes);
    for (uint64_t page = kWork.first_page + kWork.pages; page < kPages; ++page) {
      if (page % 4 != 0) {
        std::fill(bytes.begin(), bytes.end(), static_cast<uint8_t>(page % 251 + 1));
        EXPECT_TRUE(move_->memory().Write(GuestAddress(page * kPageBytes), bytes).ok());
      }
    }
    return *move_;
  }

  void ExpectMoved(const FakeMoveResult& result) {
    ASSERT_TRUE(result.source.ok()) << result.source;
    ASSERT_TRUE(result.destination.ok()) << result.destination;
    EXPECT_EQ(result.source_state, MoveState::kCompleted) << "R10";
    EXPECT_EQ(result.destination_state, MoveState::kCompleted);
    EXPECT_FALSE(move_->source_guest().running()) << "R2";
    FakeDestination& there = move_->destination();
    EXPECT_EQ(there.inhibited, 0) << "R8";
    EXPECT_FALSE(there.locked_while_receiving) << "R8";
    EXPECT_TRUE(there.locked) << "R8";
    // It works on after the move, and everything is there.
    ExpectGuestGoesOn(*there.guest(), 1000);
    const std::span<uint8_t> was = move_->memory().regions()[0]->guest_mapping();
    const std::span<uint8_t> is = there.memory()->regions()[0]->guest_mapping();
    for (uint64_t page = kWork.first_page + kWork.pages; page < kPages; ++page) {
      ASSERT_EQ(std::memcmp(was.data() + page * kPageBytes, is.data() + page * kPageBytes, kPageBytes), 0)
          << "R1: page " << page;
    }
  }

  // Nothing happened, and the next move works.
  void ExpectStayedAndMoves(const FakeMoveResult& result, const MoveOptions& options) {
    EXPECT_FALSE(result.source.ok());
    EXPECT_TRUE(move_->source_guest().running()) << "R3: " << result.source;
    EXPECT_TRUE(move_->destination().guest() == nullptr || !move_->destination().guest()->running()) << "R2";
    move_->destination().failure = FakeFailure::kNone;
    move_->port().on_package = nullptr;
    move_->port().on_save = nullptr;
    ExpectMoved(move_->Move(options));
  }

 private:
  std::unique_ptr<FakeMove> move_;
};

TEST_P(LandingTest, Precopy) {
  const FakeMoveResult result = Start().Move({.mode = MoveMode::kPrecopy, .channels = 2});
  ExpectMoved(result);
  EXPECT_FALSE(result.report.postcopy);
  EXPECT_EQ(result.report.faults, 0u);
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
}

TEST_P(LandingTest, Postcopy) {
  const FakeMoveResult result = Start().Move({.mode = MoveMode::kPostcopy, .channels = 2});
  ExpectMoved(result);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_EQ(result.report.duplicate_pages, 0u) << "R6";
  if (!GetParam().move) {
    EXPECT_EQ(result.report.moved_pages, 0u) << "the kernel has it all the same";
  }
}

// What was received is partly out of date when the guest goes.
TEST_P(LandingTest, PrecopyThatTurnsIntoPostcopy) {
  FakeMove& move = Start();
  move.port().restless = true;
  const FakeMoveResult result = move.Move({.mode = MoveMode::kAuto, .downtime_limit = absl::Microseconds(1)});
  ExpectMoved(result);
  EXPECT_TRUE(result.report.postcopy);
  EXPECT_GT(result.report.resent_pages, 0u);
}

// What huge pages have brought in beside what came must not be seen.
TEST_P(LandingTest, PostcopyFromTheMiddleOfTheFirstRound) {
  std::optional<Thread> asks;
  const FakeMoveResult result =
      Start().Move({.mode = MoveMode::kPrecopy, .downtime_limit = absl::Nanoseconds(1), .max_bandwidth = 50 << 20},
                   [&](Source& source, const MoveProgress& progress) {
                     if (progress.state == MoveState::kActive && !asks.has_value()) {
                       asks = StartOrDie("test-asks", [&source] {
                         while (source.state() == MoveState::kActive && source.progress().sent_bytes < 5 << 20) {
                           sched_yield();
                         }
                         EXPECT_TRUE(source.StartPostcopy().ok());
                       });
                     }
                   });
  asks.reset();
  ExpectMoved(result);
  EXPECT_TRUE(result.report.postcopy);
}

// R5: the limit holds back what nobody asked for: all of it would take more than a minute.
TEST_P(LandingTest, WhatTheGuestWaitsForOvertakes) {
  FakeMove& move = Start();
  move.destination().on_run = [&] {
    // As the guest does, which is at it, too.
    const std::span<uint8_t> memory = move.destination().memory()->regions()[0]->guest_mapping();
    for (uint64_t page = 0; page < kPages; ++page) {
      (void)*reinterpret_cast<volatile uint8_t*>(memory.data() + page * kPageBytes);
    }
  };
  const MonotonicTime start = MonotonicTime::Now();
  const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .max_postcopy_bandwidth = 256 << 10});
  EXPECT_LT(MonotonicTime::Now() - start, absl::Seconds(40));
  ExpectMoved(result);
}

// R4, R6: wherever in the stream the connection breaks, the move goes on, and what had come is not sent again.
TEST_P(LandingTest, ConnectionThatIsLost) {
  for (const uint64_t bytes : {uint64_t{5000}, uint64_t{1} << 20, uint64_t{9} << 20}) {
    SCOPED_TRACE(bytes);
    FakeMove& move = Start({.relay = true});
    move.destination().on_run = [&] { move.relay().CutAfter(bytes); };
    const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .channels = 2});
    ExpectMoved(result);
    EXPECT_EQ(result.report.recoveries, 1u);
    EXPECT_LE(result.report.data_pages, kPages + 2048);
  }
}

// R3: each at a time when much has come and userfaultfd watches the memory.
TEST_P(LandingTest, FailureBeforeTheGuestIsHandedOver) {
  for (const FakeFailure failure : {FakeFailure::kLoadState, FakeFailure::kRun}) {
    FakeMove& move = Start();
    move.destination().failure = failure;
    const MoveOptions options{.mode = MoveMode::kPostcopy};
    ExpectStayedAndMoves(move.Move(options), options);
  }
}

// R7, R11: bytes that are not what they should be.
TEST_P(LandingTest, DamagedState) {
  FakeMove& move = Start();
  move.port().on_package = [](std::vector<uint8_t>& blob) { blob[0] ^= 1; };
  const MoveOptions options{.mode = MoveMode::kPostcopy};
  ExpectStayedAndMoves(move.Move(options), options);
}

TEST_P(LandingTest, CancelAtTheSwitchover) {
  FakeMove& move = Start();
  Source* source = nullptr;
  move.port().on_save = [&] { EXPECT_TRUE(source->Cancel().ok()); };
  const MoveOptions options{.mode = MoveMode::kPostcopy};
  ExpectStayedAndMoves(move.Move(options, [&](Source& session, const MoveProgress&) { source = &session; }), options);
}

// R8: what is in the balloon is not sent, and is zero.
TEST_P(LandingTest, BalloonedPages) {
  for (const MoveMode mode : {MoveMode::kPrecopy, MoveMode::kPostcopy}) {
    FakeMove& move = Start();
    // A block of hugetlbfs and more: what is in the balloon is given back by whole host pages.
    for (uint64_t page = 5120; page < 6144; ++page) {
      move.port().ballooned.push_back(page);
      const std::vector<uint8_t> zero(kPageBytes);
      ASSERT_TRUE(move.memory().Write(GuestAddress(page * kPageBytes), zero).ok());
    }
    const FakeMoveResult result = move.Move({.mode = mode});
    ExpectMoved(result);
    EXPECT_GE(result.report.skipped_pages, 1024u);
  }
}

// A source on hugetlbfs sends whole pages of it, and the destination has smaller ones.
class SmallerPagesTest : public LandingTest {};

// R4: what is missing there may be a part of one.
TEST_P(SmallerPagesTest, RecoversWhereverTheStreamIsCut) {
  const LandingHost host(GetParam(), kBytes);
  for (const uint64_t bytes : {uint64_t{5000}, uint64_t{1} << 20, (uint64_t{5} << 20) + 12345}) {
    for (const char* landing : {"Memfd", "Small"}) {
      SCOPED_TRACE(absl::StrCat(landing, ", cut after ", bytes));
      FakeMove move({.bytes = kBytes,
                     .source_backing = GetParam().backing,
                     .landing = &LandingNamed(landing),
                     .work = kWork,
                     .relay = true});
      move.destination().on_run = [&] { move.relay().CutAfter(bytes); };
      const FakeMoveResult result = move.Move({.mode = MoveMode::kPostcopy, .channels = 2});
      ASSERT_TRUE(result.source.ok()) << result.source;
      ASSERT_TRUE(result.destination.ok()) << result.destination;
      EXPECT_EQ(result.report.recoveries, 1u);
      EXPECT_FALSE(move.source_guest().running()) << "R2";
      ExpectGuestGoesOn(*move.destination().guest(), 1000);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Source, SmallerPagesTest, testing::Values(LandingNamed("Hugetlb")),
                         [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(Kinds, LandingTest, testing::ValuesIn(AllLandings().begin(), AllLandings().end()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace ferrite::migration
