#include "migration/sending/channel_count.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "migration/api/move_options.h"

namespace ferrite::migration {
namespace {

struct Case {
  const char* what;
  size_t most;
  std::vector<double> rates;  // of one channel, two, and so on; beyond that as the last one
  size_t found;
};

// How many there are when so many parts of a round have been sent, in each of which `rates` were measured.
size_t Find(const Case& c, absl::Duration part = absl::Seconds(1)) {
  ChannelCount count(c.most);
  size_t seen_most = 1;
  for (int i = 0; i < 2 * kMostCountedChannels; ++i) {
    const size_t index = std::min(count.now(), c.rates.size()) - 1;
    count.Sent(static_cast<uint64_t>(c.rates[index] * 1e6 * absl::ToDoubleSeconds(part)), part);
    seen_most = std::max(seen_most, count.now());
  }
  EXPECT_LE(seen_most, c.most);
  return count.now();
}

TEST(ChannelCountTest, IsWhatHelps) {
  for (const Case& c : std::vector<Case>{
           {"a link that one fills", 8, {112, 113}, 1},
           {"one that two fill", 8, {600, 1100, 1150}, 2},
           {"one of which each has a share", 8, {100, 200, 300, 400, 500, 600, 700, 800}, 8},
           {"the same, and few processors", 3, {100, 200, 300, 400}, 3},
           {"one processor", 1, {100, 200}, 1},
           {"a gain of a tenth", 8, {100, 111, 120}, 2},
           {"a little less than that", 8, {100, 109, 300}, 1},
           {"more make it worse", 8, {100, 190, 150}, 2},
           {"nothing goes", 8, {0}, 1},
       }) {
    EXPECT_EQ(Find(c), c.found) << c.what;
  }
}

TEST(ChannelCountTest, WhatTookNoTimeSaysNothing) {
  EXPECT_EQ(Find({"", 8, {100, 200}, 0}, absl::Milliseconds(99)), 1u);
  EXPECT_EQ(Find({"", 8, {100, 200}, 0}, absl::Milliseconds(100)), 2u);
}

TEST(ChannelCountTest, RatesAreThoseOfEachNumber) {
  ChannelCount count(4);
  EXPECT_TRUE(count.rates().empty());
  count.Sent(100, absl::Seconds(1));
  count.Sent(150, absl::Seconds(1));
  EXPECT_FALSE(count.is_found());
  count.Sent(320, absl::Seconds(2));
  EXPECT_TRUE(count.is_found());
  EXPECT_EQ(count.now(), 2u);
  count.Sent(1000, absl::Seconds(1));
  EXPECT_EQ(count.rates(), (std::vector<double>{100, 150, 160}));
}

TEST(ChannelCountTest, NoMoreThanProcessorsAndThanHelp) {
  EXPECT_EQ(MostChannelsFor(0), 1);
  EXPECT_EQ(MostChannelsFor(2), 2);
  EXPECT_EQ(MostChannelsFor(8), 8);
  EXPECT_EQ(MostChannelsFor(256), 8);
}

// A move of `bytes` in parts of a second, over a link of `link` bytes/s of which one channel has at most `each`: it
// takes hardly longer than with the best number from the beginning.
TEST(ChannelCountSimulation, FindingOutCostsLittle) {
  for (const double link : {1.25e8, 1.25e9, 5e9}) {
    for (const double each : {1e8, 6e8, 1.2e9}) {
      for (const int processors : {2, 4, 16}) {
        const int most = MostChannelsFor(processors);
        const double best = std::min(link, each * most);
        ChannelCount count(static_cast<size_t>(most));
        double left = 64.0 * (1 << 30);
        double took = 0;
        while (left > 0) {
          const double rate = std::min(link, each * static_cast<double>(count.now()));
          const double part = std::min(1.0, left / rate);
          left -= rate * part;
          took += part;
          count.Sent(static_cast<uint64_t>(rate * part), absl::Seconds(part));
        }
        const double ideal = 64.0 * (1 << 30) / best;
        EXPECT_LE(took, 1.1 * ideal + 4) << link << " " << each << " " << processors;
        EXPECT_GE(std::min(link, each * static_cast<double>(count.now())), best / ChannelCount::kLeastGain);
      }
    }
  }
}

}  // namespace
}  // namespace ferrite::migration
