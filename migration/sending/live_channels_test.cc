#include "migration/sending/live_channels.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "memory/page_range.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

using Break = LiveChannels::Break;
using Told = LiveChannels::Told;

constexpr PageRange kRun = {.region = 0, .first = 1, .count = 2};
constexpr PageRange kOther = {.region = 1, .first = 5, .count = 3};

class LiveChannelsTest : public testing::Test {
 protected:
  struct Taken {
    size_t channel;
    std::vector<PageRange> missing;
    bool operator==(const Taken&) const = default;
  };
  static constexpr uint64_t kManyPages = 20'000;
  std::vector<Taken> taken_;
  std::vector<bool> pieces_;  // that it was taken back in: whether each was the last one
  LiveChannels channels_{3, {4, kManyPages}, [this](size_t channel, std::span<const PageRange> missing, bool last) {
                           pieces_.push_back(last);
                           if (pieces_.size() == 1 || pieces_[pieces_.size() - 2]) {
                             taken_.push_back({channel, {}});
                           }
                           taken_.back().missing.insert(taken_.back().missing.end(), missing.begin(), missing.end());
                         }};
};

TEST_F(LiveChannelsTest, LastOneDoesNotBreakAlone) {
  EXPECT_EQ(channels_.Lose(1), Break::kFirst);
  EXPECT_EQ(channels_.Lose(1), Break::kKnown);
  EXPECT_EQ(channels_.living(), 2u);
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  EXPECT_EQ(channels_.Lose(2), Break::kLast);
  EXPECT_EQ(channels_.Lose(0), Break::kKnown);
  EXPECT_EQ(channels_.living(), 1u);
}

// What its thread had claimed, and what did not come, are known when both ends use the channel no more.
TEST_F(LiveChannelsTest, IsSettledWhenItsThreadHasEndedAndAllIsTold) {
  channels_.Begin();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  EXPECT_FALSE(channels_.EndThread(0));
  EXPECT_EQ(channels_.AddMissing(0, {&kRun, 1}, /*last=*/false), Told::kTaken);
  EXPECT_TRUE(taken_.empty());
  EXPECT_EQ(channels_.AddMissing(0, {&kOther, 1}, /*last=*/true), Told::kSettled);
  EXPECT_EQ(taken_, (std::vector<Taken>{{0, {kRun, kOther}}}));
  EXPECT_EQ(channels_.returns(), 1u);
  EXPECT_EQ(channels_.AddMissing(0, {}, /*last=*/true), Told::kWrong) << "it was told";
  // The other way round.
  EXPECT_EQ(channels_.Lose(2), Break::kFirst);
  EXPECT_NE(channels_.AddMissing(2, {}, /*last=*/true), Told::kWrong);
  EXPECT_EQ(taken_.size(), 1u);
  EXPECT_TRUE(channels_.EndThread(2));
  EXPECT_EQ(taken_.size(), 2u);
  EXPECT_EQ(channels_.returns(), 2u);
}

TEST_F(LiveChannelsTest, OneThatBreaksBeforeItsThreadBeginsIsSettledBehindThat) {
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  EXPECT_NE(channels_.AddMissing(0, {&kRun, 1}, /*last=*/true), Told::kWrong);
  EXPECT_TRUE(taken_.empty());
  channels_.Begin();
  EXPECT_TRUE(taken_.empty());
  EXPECT_TRUE(channels_.EndThread(0));
  EXPECT_EQ(taken_.size(), 1u);
}

TEST_F(LiveChannelsTest, ThreadThatEndsWithoutABreakSettlesNothing) {
  channels_.Begin();
  EXPECT_FALSE(channels_.EndThread(0));
  EXPECT_TRUE(taken_.empty());
  EXPECT_EQ(channels_.living(), 3u);
}

// R11: whatever it says, no more is kept than there can be.
TEST_F(LiveChannelsTest, NoMoreIsMissingThanThereIs) {
  channels_.Begin();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  const PageRange all = {.region = 1, .first = 0, .count = kManyPages};
  EXPECT_NE(channels_.AddMissing(0, {&all, 1}, /*last=*/false), Told::kWrong);
  const PageRange rest = {.region = 0, .first = 0, .count = 4};
  EXPECT_NE(channels_.AddMissing(0, {&rest, 1}, /*last=*/false), Told::kWrong);
  const PageRange one = {.region = 0, .first = 0, .count = 1};
  EXPECT_EQ(channels_.AddMissing(0, {&one, 1}, /*last=*/false), Told::kWrong);
  const PageRange many = {.region = 0, .first = 0, .count = ~uint64_t{0}};
  EXPECT_EQ(channels_.AddMissing(0, {&many, 1}, /*last=*/false), Told::kWrong);
}

// R11: every other page is no more to keep than all of them; it is taken back in pieces.
TEST_F(LiveChannelsTest, PagesThatAreToldOneByOneAreTakenBackInPieces) {
  channels_.Begin();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  std::vector<PageRange> told;
  for (uint64_t page = 0; page < kManyPages; page += 2) {
    told.push_back({.region = 1, .first = page, .count = 1});
  }
  EXPECT_EQ(channels_.AddMissing(0, told, /*last=*/true), Told::kTaken);
  EXPECT_TRUE(channels_.EndThread(0));
  EXPECT_EQ(taken_, (std::vector<Taken>{{0, told}}));
  EXPECT_EQ(pieces_, (std::vector<bool>{false, false, true}));
  EXPECT_EQ(channels_.returns(), 1u);
}

TEST_F(LiveChannelsTest, RestEndsWhenSomethingIsPendingAgain) {
  channels_.Begin();
  const MonotonicTime now = RealClock().Now();
  const MonotonicTime never = MonotonicTime::InfiniteFuture();
  const uint64_t seen = channels_.returns();
  EXPECT_FALSE(channels_.RestUntil(1, seen, RealClock(), now)) << "its time has come";
  EXPECT_FALSE(channels_.RestUntil(1, seen, RealClock(), now + absl::Milliseconds(1)));
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  EXPECT_FALSE(channels_.RestUntil(0, seen, RealClock(), never)) << "it broke";
  {
    const Thread teller = StartOrDie("test-teller", [this] {
      EXPECT_NE(channels_.AddMissing(0, {&kRun, 1}, /*last=*/true), Told::kWrong);
      channels_.EndThread(0);
    });
    EXPECT_TRUE(channels_.RestUntil(1, seen, RealClock(), never));
  }
  EXPECT_TRUE(channels_.RestUntil(1, seen, RealClock(), now)) << "that comes first";
  channels_.End();
  EXPECT_FALSE(channels_.RestUntil(1, channels_.returns(), RealClock(), never));
}

TEST_F(LiveChannelsTest, NobodyIsDoneBeforeWhatBrokeIsSettled) {
  channels_.Begin();
  EXPECT_FALSE(channels_.AwaitSettled(1, channels_.returns())) << "none broke";
  const uint64_t seen = channels_.returns();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  {
    const Thread teller = StartOrDie("test-teller", [this] {
      EXPECT_NE(channels_.AddMissing(0, {&kRun, 1}, /*last=*/true), Told::kWrong);
      channels_.EndThread(0);
    });
    EXPECT_TRUE(channels_.AwaitSettled(1, seen)) << "there is more";
  }
  EXPECT_TRUE(channels_.AwaitSettled(2, seen));
  EXPECT_FALSE(channels_.AwaitSettled(2, channels_.returns())) << "it has looked";
}

TEST_F(LiveChannelsTest, OneThatIsDoneGoesOnWhenAnotherOneBreaks) {
  channels_.Begin();
  const uint64_t seen = channels_.returns();
  bool more = false;
  Thread done = StartOrDie("test-done", [&] { more = channels_.AwaitMore(1, seen); });
  Thread also_done = StartOrDie("test-done", [&] {
    if (channels_.AwaitMore(2, seen)) {
      EXPECT_FALSE(channels_.AwaitMore(2, channels_.returns()));
    }
  });
  Thread broken = StartOrDie("test-broken", [&] { EXPECT_FALSE(channels_.AwaitMore(0, seen)) << "it broke"; });
  channels_.AwaitAll();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  broken.Join();
  channels_.EndThread(0);
  EXPECT_NE(channels_.AddMissing(0, {&kRun, 1}, /*last=*/true), Told::kWrong);
  done.Join();
  EXPECT_TRUE(more);
  channels_.End();
  also_done.Join();
  EXPECT_FALSE(channels_.AwaitMore(1, channels_.returns()));
  EXPECT_FALSE(channels_.AwaitSettled(1, channels_.returns() - 1));
}

TEST_F(LiveChannelsTest, AllAreDoneWhenThoseAreThatLive) {
  channels_.AwaitAll();  // none was begun
  channels_.Begin();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  EXPECT_EQ(channels_.Lose(1), Break::kFirst);
  for (const size_t channel : {0, 1}) {
    channels_.EndThread(channel);
    EXPECT_NE(channels_.AddMissing(channel, {}, /*last=*/true), Told::kWrong);
  }
  const Thread done = StartOrDie("test-done", [&] { EXPECT_FALSE(channels_.AwaitMore(2, channels_.returns())); });
  channels_.AwaitAll();
  channels_.End();
}

TEST_F(LiveChannelsTest, EndIsNotWaitedFor) {
  channels_.Begin();
  EXPECT_EQ(channels_.Lose(0), Break::kFirst);
  channels_.End();
  EXPECT_FALSE(channels_.AwaitSettled(1, channels_.returns()));
  channels_.AwaitAll();
  EXPECT_TRUE(channels_.ended());
}

}  // namespace
}  // namespace ferrite::migration
