#include "migration/sending/channel_turns.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "base/monotonic.h"
#include "base/thread.h"
#include "tests/fakes/fake_clock.h"
#include "tests/fakes/test_thread.h"

namespace ferrite::migration {
namespace {

constexpr uint64_t kPages = 64;
constexpr uint64_t kBytes = kPages * 4096;

class ChannelTurnsTest : public testing::Test {
 protected:
  void SendOne(ChannelTurns& turns, double rate, double data_part = 1) {
    clock_.Advance(absl::Seconds(static_cast<double>(kBytes) / rate));
    turns.Sent(kPages, static_cast<uint64_t>(data_part * kPages), kBytes);
  }
  // Sends for `parts` of a round, and a little of the next one: `rates` are those of one channel, two, and so on, in
  // bytes/s, and of these pages `data_part` go with their bytes.
  void Send(ChannelTurns& turns, double parts, const std::vector<double>& rates, double data_part = 1) {
    const MonotonicTime end = clock_.Now() + (parts + 0.1) * ChannelTurns::kPart;
    while (clock_.Now() < end) {
      SendOne(turns, rates[std::min(turns.used(), rates.size()) - 1], data_part);
    }
  }

  FakeClock clock_;
};

TEST_F(ChannelTurnsTest, AllAreUsedWhereNoneIsCounted) {
  ChannelTurns turns(clock_, 3, /*counted=*/false);
  turns.Begin(/*counts=*/true);
  for (const size_t channel : {0, 1, 2}) {
    EXPECT_TRUE(turns.Await(channel));
  }
  Send(turns, 10, {1e8});
  EXPECT_EQ(turns.used(), 3u);
  EXPECT_EQ(turns.in_round(), 3u);
  EXPECT_TRUE(turns.rates().empty());
}

TEST_F(ChannelTurnsTest, AsManyAreUsedAsHelp) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  EXPECT_EQ(turns.used(), 1u);
  turns.Begin(/*counts=*/true);
  EXPECT_EQ(turns.in_round(), 1u) << "one alone holds up nobody";
  // Two parts each: the first one says nothing.
  Send(turns, 2, {1e9, 1.9e9, 2e9});
  EXPECT_EQ(turns.used(), 2u);
  EXPECT_EQ(turns.in_round(), 2u);
  Send(turns, 10, {1e9, 1.9e9, 2e9});
  EXPECT_EQ(turns.used(), 2u);
  ASSERT_EQ(turns.rates().size(), 3u);
  EXPECT_NEAR(turns.rates()[1], 1.9e9, 1e8);
}

// What it measures is the round: a pause between two of them is none of it.
TEST_F(ChannelTurnsTest, NothingIsMeasuredBetweenRounds) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  for (int round = 0; round < 10; ++round) {
    turns.Begin(/*counts=*/true);
    Send(turns, 1, {1e9});
    turns.End();
    clock_.Advance(absl::Seconds(10));
  }
  EXPECT_TRUE(turns.rates().empty()) << "each begins anew";
  turns.Begin(/*counts=*/true);
  Send(turns, 2, {1e9});
  ASSERT_EQ(turns.rates().size(), 1u);
  EXPECT_NEAR(turns.rates()[0], 1e9, 1e7);
}

// A guest that writes much has rounds that are shorter than a part.
TEST_F(ChannelTurnsTest, ShortRoundsAreMeasuredTogether) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  for (int round = 0; round < 6; ++round) {
    turns.Begin(/*counts=*/true);
    Send(turns, 0.4, {1e8});
    turns.End();
    clock_.Advance(ChannelTurns::kPause / 4);
  }
  ASSERT_EQ(turns.rates().size(), 1u);
  EXPECT_NEAR(turns.rates()[0], 1e8, 1e7);
}

TEST_F(ChannelTurnsTest, PausesThatAreLongTogetherEndThePart) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  for (int round = 0; round < 20; ++round) {
    turns.Begin(/*counts=*/true);
    Send(turns, 0.1, {1e8});
    turns.End();
    clock_.Advance(ChannelTurns::kPause / 2.5);
  }
  EXPECT_TRUE(turns.rates().empty());
}

// Over all channels, and with nothing in the buffers of one of them.
TEST_F(ChannelTurnsTest, RoundOfDisksEndsThePart) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  for (int round = 0; round < 6; ++round) {
    turns.Begin(/*counts=*/round % 2 == 0);
    Send(turns, 0.9, {1e8});
    turns.End();
  }
  EXPECT_TRUE(turns.rates().empty());
}

// Of a limit 50 ms may be saved up, which are much of a part.
TEST_F(ChannelTurnsTest, WhatWasSavedUpOfALimitIsNoGain) {
  ChannelTurns turns(clock_, 8, /*counted=*/true, /*limit=*/100'000'000);
  turns.Begin(/*counts=*/true);
  Send(turns, 2, {1e8});
  Send(turns, 2, {1e8, 1.2e8});
  EXPECT_EQ(turns.used(), 1u);
  ASSERT_EQ(turns.rates().size(), 2u);
  EXPECT_NEAR(turns.rates()[1], 1e8, 1e3);
}

// The kernel's buffers take much of what goes first over one more channel.
TEST_F(ChannelTurnsTest, WhatFillsBuffersIsNoGain) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  turns.Begin(/*counts=*/true);
  size_t used = 0;
  MonotonicTime since;
  for (const MonotonicTime end = clock_.Now() + absl::Seconds(10); clock_.Now() < end;) {
    if (turns.used() > used) {
      since = clock_.Now();
    }
    used = turns.used();
    SendOne(turns, clock_.Now() - since < 0.9 * ChannelTurns::kPart ? 1.5e8 : 1e8);
  }
  EXPECT_EQ(turns.used(), 1u);
  EXPECT_EQ(turns.rates().size(), 2u);
}

// Zero pages go as fast as memory is read, and a run of them is over soon.
TEST_F(ChannelTurnsTest, PartsOfZeroPagesSayNothing) {
  ChannelTurns turns(clock_, 8, /*counted=*/true);
  turns.Begin(/*counts=*/true);
  Send(turns, 10, {1e10}, /*data_part=*/0.5);
  EXPECT_TRUE(turns.rates().empty());
  Send(turns, 2, {1e8}, /*data_part=*/0.8);
  EXPECT_EQ(turns.rates().size(), 1u);
}

TEST_F(ChannelTurnsTest, RoundOfDisksGoesOverAllAndSaysNothing) {
  ChannelTurns turns(clock_, 3, /*counted=*/true);
  turns.Begin(/*counts=*/false);
  EXPECT_TRUE(turns.Await(2));
  EXPECT_EQ(turns.in_round(), 3u);
  Send(turns, 10, {1e8});
  EXPECT_EQ(turns.used(), 1u);
  EXPECT_TRUE(turns.rates().empty());
}

TEST_F(ChannelTurnsTest, OthersWaitUntilTheyAreUsedOrTheRoundIsOver) {
  ChannelTurns turns(clock_, 3, /*counted=*/true);
  turns.Begin(/*counts=*/true);
  EXPECT_TRUE(turns.Await(0));
  bool second = false, third = true;
  Thread of_second = StartOrDie("test-second", [&] { second = turns.Await(1); });
  Thread of_third = StartOrDie("test-third", [&] { third = turns.Await(2); });
  Send(turns, 2, {1e8});
  of_second.Join();
  EXPECT_TRUE(second);
  turns.End();
  of_third.Join();
  EXPECT_FALSE(third);
  EXPECT_TRUE(turns.Await(1)) << "what is claimed by then is sent";
  // In the next round, too.
  turns.Begin(/*counts=*/true);
  Thread again = StartOrDie("test-third", [&] { third = turns.Await(2); });
  Send(turns, 2, {1e8, 2e8});
  again.Join();
  EXPECT_TRUE(third);
}

// One that brought nothing sends no more.
TEST_F(ChannelTurnsTest, OneIsTakenBack) {
  ChannelTurns turns(clock_, 3, /*counted=*/true);
  turns.Begin(/*counts=*/true);
  Send(turns, 2, {1e8});
  EXPECT_TRUE(turns.Await(1));
  Send(turns, 2, {1e8, 1e8});
  EXPECT_EQ(turns.used(), 1u);
  turns.End();
  EXPECT_FALSE(turns.Await(1));
}

}  // namespace
}  // namespace ferrite::migration
