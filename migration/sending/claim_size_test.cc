#include "migration/sending/claim_size.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/time/time.h"

namespace ferrite::migration {
namespace {

constexpr double kPageBytes = 4096;

TEST(ClaimSizeTest, IsWhatGoesInAMoment) {
  struct Case {
    double bytes_a_second;
    uint64_t pages;
  };
  for (const Case& c : {Case{1e10, 512}, {1e9, 512}, {1.05e8, 512}, {5e7, 244}, {1e7, 48}, {1e6, 16}, {1e3, 16}}) {
    ClaimSize size;
    for (int i = 0; i < 50; ++i) {
      size.Sent(size.pages(), absl::Seconds(static_cast<double>(size.pages()) * kPageBytes / c.bytes_a_second));
    }
    EXPECT_EQ(size.pages(), c.pages) << c.bytes_a_second;
    EXPECT_EQ(size.goes_at_once(), c.pages < 512);
  }
}

TEST(ClaimSizeTest, FollowsWhatChanges) {
  ClaimSize size;
  EXPECT_EQ(size.pages(), 64u) << "nobody knows";
  size.Sent(512, absl::ZeroDuration());
  EXPECT_EQ(size.pages(), 512u);
  // It stalls once.
  size.Sent(512, absl::Seconds(1));
  EXPECT_EQ(size.pages(), 16u);
  int claims = 0;
  while (size.pages() < 512) {
    size.Sent(size.pages(), absl::Microseconds(10) * static_cast<double>(size.pages()));
    ASSERT_LT(++claims, 200);
  }
  EXPECT_GT(claims, 4);
  // A clock that goes back is none.
  size.Sent(1, -absl::Seconds(1));
  EXPECT_EQ(size.pages(), 512u);
}

// One channel of a round: its kernel takes `room` at once, and sends at `rate` bytes/s.
struct Channel {
  double rate;
  double room;
  double free_at = 0;  // when it claims next
  double queued_until = 0;
  uint64_t sent = 0;
  ClaimSize size;
};

// How long `pages` take over them in virtual time, until the last thread is done with what it had claimed, and how long
// at best.
struct Took {
  double all;
  double ideal;
};
Took SendRound(std::vector<Channel>& channels, uint64_t pages, double start, uint64_t fixed_claim = 0) {
  uint64_t left = pages;
  double end = start;
  for (Channel& channel : channels) {
    channel.free_at = std::max(channel.free_at, start);
  }
  while (left > 0) {
    Channel& next = *std::min_element(channels.begin(), channels.end(),
                                      [](const Channel& a, const Channel& b) { return a.free_at < b.free_at; });
    const uint64_t claim = std::min(left, fixed_claim != 0 ? fixed_claim : next.size.pages());
    left -= claim;
    next.sent += claim;
    // The thread goes on when all but `room` has left.
    next.queued_until = std::max(next.queued_until, next.free_at) + static_cast<double>(claim) * kPageBytes / next.rate;
    const double done = std::max(next.free_at + 1e-6, next.queued_until - next.room / next.rate);
    next.size.Sent(claim, absl::Seconds(done - next.free_at));
    next.free_at = done;
    end = std::max(end, done);
  }
  const double rate = std::accumulate(channels.begin(), channels.end(), 0.0,
                                      [](double sum, const Channel& channel) { return sum + channel.rate; });
  return {.all = end - start, .ideal = static_cast<double>(pages) * kPageBytes / rate};
}

// A round over four channels, one of which carries a tenth: in the first one, of which nothing was measured, and later.
TEST(ClaimSizeSimulation, SlowChannelDoesNotHoldUpARound) {
  for (const double rate : {1e8, 3e8, 1e9}) {
    for (const double part : {0.1, 0.03}) {
      for (const double room : {64e3, 256e3}) {
        std::vector<Channel> channels(4, Channel{.rate = rate, .room = room});
        channels[2].rate = rate * part;
        // Half a second's worth, and less.
        double now = 0;
        for (const double seconds : {0.5, 0.5, 0.2}) {
          const auto pages = static_cast<uint64_t>(3 * rate * seconds / kPageBytes);
          const Took took = SendRound(channels, pages, now);
          now += took.all;
          EXPECT_LE(took.all, 1.3 * took.ideal) << rate << " " << part << " " << room << " " << seconds;
        }
        const uint64_t all = std::accumulate(channels.begin(), channels.end(), uint64_t{0},
                                             [](uint64_t sum, const Channel& channel) { return sum + channel.sent; });
        const double share = static_cast<double>(channels[2].sent) / static_cast<double>(all);
        EXPECT_LE(share, 1.5 * part / (3 + part)) << "no more than it carries";
      }
    }
  }
}

// What it was for: with claims of one size the same round takes longer.
TEST(ClaimSizeSimulation, ClaimsOfOneSizeDo) {
  std::vector<Channel> channels(4, Channel{.rate = 1e8, .room = 64e3});
  channels[2].rate = 1e7;
  const Took took = SendRound(channels, 3 * 1e8 * 0.25 / kPageBytes, 0, /*fixed_claim=*/512);
  EXPECT_GT(took.all, 1.3 * took.ideal);
}

}  // namespace
}  // namespace ferrite::migration
