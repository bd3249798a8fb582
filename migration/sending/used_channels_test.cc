// Of several page channels those are used that help: what goes over which, in virtual time.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_join.h"
#include "base/thread.h"
#include "migration/api/move_options.h"
#include "migration/protocol/page_header.h"
#include "migration/sending/channel_turns.h"
#include "migration/sending/page_source.h"
#include "migration/sending/send_figures.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/fake_part.h"
#include "tests/fakes/page_taker.h"
#include "tests/fakes/test_host.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

// Two seconds of the limit, in which one and two channels are measured for half a second each.
constexpr std::array<uint64_t, 2> kPages = {8192, 1024};
constexpr std::array<uint64_t, 2> kPagesPerUnit = {1, 1};
constexpr uint64_t kLimit = uint64_t{16} << 20;
constexpr size_t kChannels = 3;

bool Never() { return false; }

uint64_t PagesIn(const std::vector<PageHeader>& frames) {
  uint64_t pages = 0;
  for (const PageHeader& frame : frames) {
    pages += frame.type == PageFrameType::kPages ? frame.count : 0;
  }
  return pages;
}

class UsedChannelsTest : public testing::Test {
 protected:
  // The second part is a mirrored one.
  UsedChannelsTest() { second_.is_mirrored = true; }

  void Open(const MoveOptions& options = {}) {
    turns_ = std::make_shared<ChannelTurns>(clock_, kChannels, /*counted=*/true, options.max_bandwidth);
    TakenChannels taken = MakeTakenChannels(kChannels, kept_);
    takers_ = std::move(taken.takers);
    PageSource::Channels sinks;
    sinks.page = std::move(taken.sinks);
    sinks.urgent.push_back(std::move(urgent_.sink));
    sinks.turns = turns_;
    source_ = *PageSource::Create(host_.get(), {&first_, &second_}, kPagesPerUnit, std::move(sinks), options, figures_,
                                  [](const absl::Status&) {});
    ASSERT_EQ(source_->Start(), absl::OkStatus());
  }
  void StartRound(WhichParts parts) {
    round_ = StartOrDie("test-round", [=, this] {
      result_ = source_->SendRound(/*number=*/0, Never, RoundPages::kAll, parts);
      is_over_ = true;
    });
  }
  void EndRound() {
    EXPECT_TRUE(clock_.PassUntil([this] { return is_over_.load(); }));
    round_.Join();
    EXPECT_EQ(result_, absl::OkStatus());
  }

  FakeClock clock_;
  const TestHost host_{clock_};
  FakePart first_{{kPages[0]}}, second_{{kPages[1]}, 1};
  SendFigures figures_;
  KeptPages kept_{kPages};
  std::shared_ptr<ChannelTurns> turns_;
  std::vector<std::unique_ptr<PageTaker>> takers_;
  PairEnds urgent_ = MakePairEnds();
  std::unique_ptr<PageSource> source_;
  std::atomic<bool> is_over_ = false;
  absl::Status result_;
  Thread round_;
};

TEST_F(UsedChannelsTest, OneBringsAllWhereNothingWasMeasured) {
  Open();
  ASSERT_EQ(source_->SendRound(0, Never), absl::OkStatus());
  const std::vector<PageHeader> frames = takers_[0]->AwaitRound(0);
  EXPECT_EQ(PagesIn(frames), kPages[0] + kPages[1]);
  EXPECT_EQ(frames.size(), (kPages[0] + kPages[1]) / kMaxDataPages + 1) << "one alone claims as much as it may";
  for (const size_t channel : {1, 2}) {
    EXPECT_EQ(takers_[channel]->AwaitRound(0), std::vector<PageHeader>{RoundFrame(0)});
  }
  source_->MakePending({.region = 0, .first = 0, .count = kPages[0]});
  source_->StartPostcopy();
  source_->StartRest();
  ASSERT_EQ(source_->FinishRest(), absl::OkStatus());
  EXPECT_EQ(PagesIn(takers_[0]->AwaitRound(kLastRound)), kPages[0]);
  for (const size_t channel : {1, 2}) {
    EXPECT_EQ(takers_[channel]->AwaitRound(kLastRound), std::vector<PageHeader>{RoundFrame(kLastRound)});
  }
}

// What the limit allows goes over one as well.
TEST_F(UsedChannelsTest, OneMoreThatBringsNothingIsTriedAndTakenBack) {
  Open({.max_bandwidth = kLimit});
  StartRound(WhichParts::kAll);
  EndRound();
  EXPECT_EQ(turns_->used(), 1u);
  ASSERT_EQ(turns_->rates().size(), 2u) << absl::StrJoin(turns_->rates(), ", ");
  EXPECT_NEAR(turns_->rates()[0], kLimit, kLimit / 20);
  const uint64_t pages = PagesIn(takers_[1]->AwaitRound(0));
  EXPECT_GT(pages, 0u);
  EXPECT_LT(pages, kPages[0] / 2);
  EXPECT_EQ(takers_[2]->AwaitRound(0), std::vector<PageHeader>{RoundFrame(0)});
}

TEST_F(UsedChannelsTest, AllAreUsedForMirroredParts) {
  Open({.max_bandwidth = kLimit});
  StartRound(WhichParts::kMirrored);
  EXPECT_TRUE(clock_.AwaitWaiting(kChannels));
  EndRound();
  for (const auto& taker : takers_) {
    EXPECT_GT(PagesIn(taker->AwaitRound(0)), 0u);
  }
  EXPECT_TRUE(turns_->rates().empty());
}

// Those that are not used do not wait for one that is no more.
TEST_F(UsedChannelsTest, UsedOneThatBreaksEndsTheRound) {
  Open({.max_bandwidth = kLimit});
  StartRound(WhichParts::kAll);
  EXPECT_TRUE(clock_.AwaitWaiting(1));
  takers_[0].reset();
  EXPECT_TRUE(clock_.PassUntil([this] { return is_over_.load(); }));
  round_.Join();
  EXPECT_FALSE(result_.ok());
}

}  // namespace
}  // namespace ferrite::migration
